"""Greedy replies of every model family, in every mode at once, against full forward passes.

On one device the rest of this folder has them; here rows are spread over four shards, and heads over two.
"""

import dataclasses
import re

import jax
import numpy as np
import pytest
from flax import nnx

from aloe_jax.models.native.decoder import DecoderSpec
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.sampling import cache, programs
from aloe_jax.sampling.sampler import Sampler
from tests.random_models import random_decoder
from tests.sampling.tiny import following

SPEC = DecoderSpec(
    vocab=64, layers=1, width=16, query_heads=4, kv_heads=2, head_size=8, feed_forward=32, max_length=192
)  # fmt: skip
QKV = ("query", "key", "value")
FAMILIES = {
    "llama": {"rope_scaling": (8.0, 1.0, 4.0, 64.0), "tie_embeddings": True},
    "mistral": {"windows": (40,)},
    "qwen2": {"biases": QKV, "layers": 2, "windows": (0, 70)},
    "qwen3": {"qk_norm": "head"},
    "olmo": {"norm": "layer", "clip_qkv": 0.5},
    "olmo2": {"norm_place": "output", "qk_norm": "projection"},
}


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshSettings(data=2, fsdp=2, tensor=2))


def spread(model, mesh):
    """The model with its parameters over the mesh, as load_pretrained has them."""
    places = model.spec.shardings(mesh)
    return model.spec.assemble(jax.device_put(nnx.to_pure_dict(nnx.state(model, nnx.Param)), places))


def decoder(family, mesh):
    spec = dataclasses.replace(SPEC, family=family, **FAMILIES[family])
    return spread(random_decoder(spec, 0.4, seed=2), mesh)


# With blocks of their own; biases and windows; norms of whole projections and behind. The others on one device are in
# models/test_families.py.
@pytest.mark.parametrize(
    "family",
    [name if name in ("llama", "qwen2", "olmo2") else pytest.param(name, marks=pytest.mark.soak) for name in FAMILIES],
)
def test_greedy_tokens_equal_full_forward_passes(family, mesh, monkeypatch):
    """Six ragged conversations in four rows, two turns with the cache kept; once in several blocks."""
    monkeypatch.setattr(cache, "BLOCK", 64 if family == "llama" else cache.BLOCK)
    model = decoder(family, mesh)
    random = np.random.default_rng(0)
    rows = [random.integers(0, 64, length).tolist() for length in (3, 70, 30, 64, 1, 90)]
    session = Sampler(model, rows=4).session(6)
    whole: list[list[int]] = [[] for _ in rows]
    drawn: list[list[int]] = [[] for _ in rows]  # the places of tokens that were drawn
    for new in (rows, [random.integers(0, 64, length).tolist() for length in (5, 2, 0, 60, 1, 30)]):
        session.extend(new)
        for row, (added, reply) in enumerate(zip(new, session.reply(20), strict=True)):
            whole[row] += [*added, *reply]
            drawn[row] += range(len(whole[row]) - len(reply), len(whole[row]))
    likeliest = following(random_decoder(model.spec, 0.4, seed=2), whole)
    for row, places in enumerate(drawn):
        assert len(places) == 40 or len(whole[row]) == 192
        assert [whole[row][place] for place in places] == likeliest[row, np.array(places) - 1].tolist()
    assert len({whole[row][place] for row, places in enumerate(drawn) for place in places}) > 10


def test_no_row_of_the_cache_travels_between_devices(mesh, monkeypatch):
    """Rows and heads stay where they are: what devices exchange is small beside the cache."""
    made = {}
    for name in ("prefill", "decode"):
        program = getattr(programs, name)

        def run(*args, program=program, name=name, **settings):
            made.setdefault(name, (program.lower(*args, **settings).compile().as_text(), args[3]))
            return program(*args, **settings)

        monkeypatch.setattr(programs, name, run)
    session = Sampler(decoder("qwen3", mesh), rows=4).session(4)
    session.extend([[1] * 70] * 4)
    session.reply(2)
    for text, held in made.values():
        block = held.blocks[0][0].keys  # [B,K,H,S]
        assert block.sharding.shard_shape(block.shape) == (1, 1, 8, 192)
        moved = [line for line in text.splitlines() if re.search(r" (all-|collective-)[a-z-]+\(", line)]
        assert moved and not any(re.search(r"\b192\b", line.split("metadata")[0]) for line in moved)
