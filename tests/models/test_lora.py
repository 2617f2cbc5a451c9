"""Adapters by themselves: nothing at first, then what the formula says, merged, in few bits, and as peft's files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from aloe_jax.errors import AloeError
from aloe_jax.models.native.decoder import DecoderSpec
from aloe_jax.models.native.lora import Adapter, dense, quantised
from aloe_jax.models.native.peft import save_adapter_directory
from aloe_jax.models.settings import LoRASettings
from aloe_jax.sampling.sampler import Sampler
from tests.random_models import random_decoder

SPEC = DecoderSpec(
    vocab=50, layers=3, width=32, query_heads=4, kv_heads=2, head_size=8, feed_forward=48, max_length=100
)  # fmt: skip
TOKENS = np.arange(20)[None] * 7 % 50


def adapted(lora: LoRASettings, trained: bool = True):
    model = random_decoder(SPEC).adapted(lora, seed=0)
    for number, value in enumerate(model.adapters.values() if trained else ()):
        value[...] = 0.1 * jax.random.normal(jax.random.key(number), value.shape)
    return model


def test_new_adapters_change_nothing_at_all():
    before = random_decoder(SPEC)(TOKENS)
    np.testing.assert_array_equal(adapted(LoRASettings(), trained=False)(TOKENS), before)


@nnx.jit
def forward(model):
    return model(TOKENS)


@pytest.mark.parametrize(
    "base", ["as_loaded", *(pytest.param(name, marks=pytest.mark.soak) for name in ("int8", "int4")), "nf4"]
)
def test_merged_weights_compute_the_same_and_gradients_reach_every_adapter(base):
    model = adapted(LoRASettings(rank=4, alpha=6, base=base))
    plain = model.merged()
    np.testing.assert_allclose(forward(plain), forward(model), atol=2e-5)
    assert Sampler(model).generate([[1, 2, 3]], 8) == Sampler(plain).generate([[1, 2, 3]], 8)
    if base == "as_loaded":  # by hand: W + alpha / rank A B
        a, b = (np.asarray(model.adapters[f"query_{side}"][...])[1] for side in "ab")
        expected = np.asarray(model.layers["query"][...])[1] + 1.5 * np.einsum("dr,rnh->dnh", a, b)
        np.testing.assert_allclose(plain.layers["query"][...][1], expected, atol=1e-6)
    graph, trained, rest = nnx.split(model, Adapter, nnx.Param)
    gradients = jax.jit(jax.grad(lambda trained: jnp.sum(nnx.merge(graph, trained, rest)(TOKENS) ** 2)))(trained)
    leaves = jax.tree.leaves(gradients)
    assert len(leaves) == 2 * len(LoRASettings().targets)
    assert all(bool(jnp.isfinite(leaf).all()) and bool((leaf != 0).any()) for leaf in leaves)


@pytest.mark.parametrize(("kind", "error", "bits"), [("int8", 0.01, 8), ("int4", 0.15, 4), ("nf4", 0.12, 4)])
def test_few_bits_stay_near_the_weight(kind, error, bits):
    weight = jax.random.normal(jax.random.key(0), (2, 128, 4, 16))
    held = quantised(weight, kind)
    assert float(jnp.abs(dense(held) - weight).mean()) < error
    codes, scales = jax.tree.leaves(held)
    assert jnp.iinfo(codes.dtype).bits == bits and scales.shape == (2, 2, 4, 16)  # two blocks of 64


def test_only_the_targets_are_adapted():
    model = adapted(LoRASettings(rank=2, targets=("query", "down"), base="int8"))
    assert set(model.adapters) == {"query_a", "query_b", "down_a", "down_b"}
    assert isinstance(model.layers["key"][...], jax.Array) and not isinstance(model.layers["down"][...], jax.Array)


def test_peft_s_files(tmp_path):
    model = adapted(LoRASettings(rank=4, alpha=6, targets=("query", "output", "down")))
    for _ in range(2):  # an earlier export is replaced
        save_adapter_directory(model, tmp_path / "adapter", "models/base")
    found = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert len(found) == 3 * 3 * 2
    module = "base_model.model.model.layers.2.self_attn.o_proj"
    a, b = found[f"{module}.lora_A.weight"], found[f"{module}.lora_B.weight"]
    assert a.shape == (4, 32) and b.shape == (32, 4)
    delta = 1.5 * (b @ a).T.reshape(4, 8, 32)
    kept = model.layers["output"][...][2]
    np.testing.assert_allclose(model.merged().layers["output"][...][2], kept + delta, atol=1e-6)
    settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert settings["target_modules"] == ["q_proj", "o_proj", "down_proj"]
    assert (settings["r"], settings["lora_alpha"], settings["base_model_name_or_path"]) == (4, 6, "models/base")
    with pytest.raises(AloeError, match="the model has no adapters"):
        save_adapter_directory(random_decoder(SPEC), tmp_path / "other", "models/base")
    (tmp_path / "adapter/thesis.txt").write_text("mine")
    with pytest.raises(AloeError, match=r"holds thesis\.txt, which no export wrote"):
        save_adapter_directory(model, tmp_path / "adapter", "models/base")
