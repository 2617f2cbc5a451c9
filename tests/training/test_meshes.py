"""The compiled step gives one loss and one gradient, whatever the mesh and the number of parts."""

import functools
import math

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from aloe_jax.data.loader import evaluation_batches
from aloe_jax.data.packing import pack
from aloe_jax.models.native.decoder import DecoderSpec
from aloe_jax.parallel.distributed import local_rows, place
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.training.master import MasterCopies
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages.stage import stage_of
from aloe_jax.training.step import new_state, train_step
from aloe_jax.training.totals import read
from tests.random_models import random_decoder
from tests.random_trees import draw_tree

SPEC = DecoderSpec(
    vocab=64, layers=2, width=32, query_heads=4, kv_heads=2, head_size=8, feed_forward=48, max_length=512
)
RATE = 1000.0
MESHES = [(1, 1, 1), (8, 1, 1), (2, 4, 1), (1, 2, 4), (2, 2, 2)]


@functools.cache
def material():
    random = np.random.default_rng(0)
    # Ragged: 16 rows with one to three turns each.
    trees = [draw_tree(random, 1 + i % 3, SPEC.vocab, f"t{i}", user=6, reply=8) for i in range(16)]
    rows, _ = pack(trees, 80)
    (batch,) = evaluation_batches(rows, 16)
    reference = random.normal(-30, 2, batch["pairs"].shape).astype(np.float32)
    return batch | {"reference": reference}


def settings(stage: str, **section) -> TrainSettings:
    values = {"stage": stage, "output": "-", "data": {"path": "-"}, "model": {"path": "-"}, stage: section}
    return TrainSettings.model_validate(values)


def one_step(made: TrainSettings, shape, parts=1):
    """(what the step reports, the gradient of every weight): plain descent shows it, in steps that hardly round."""
    mesh = make_mesh(MeshSettings(data=shape[0], fsdp=shape[1], tensor=shape[2]), jax.devices()[: math.prod(shape)])
    graph, state = nnx.split(random_decoder(SPEC), nnx.Param)
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(state))
    with jax.set_mesh(mesh):
        optimizer = MasterCopies(optax.sgd(RATE))
        state = new_state(jax.device_put(before, SPEC.shardings(mesh)), optimizer, mesh)
        step = train_step(graph, stage_of(made).objective(3), optimizer, state, mesh, parts=parts)
        state, totals = step(state, place(material(), mesh))
    return read(totals), jax.tree.map(lambda old, new: (old - np.asarray(new)) / RATE, before, state["params"])


CASES = {
    "tokens": settings("sft"),
    "sequences": settings("sft", normalise="sequence"),
    "dpo": settings("dpo", label_smoothing=0.1, sft_weight=0.3, turn_weights=[1, 2]),
}


@functools.cache
def expected(case: str):
    return one_step(CASES[case], (1, 1, 1))


@pytest.mark.parametrize(
    ("case", "shape", "parts"),
    [
        *(("dpo", shape, 1) for shape in MESHES[1:]),
        ("dpo", (1, 1, 1), 4),
        ("dpo", (2, 4, 1), 2),
        ("tokens", (2, 2, 2), 2),
        ("sequences", (8, 1, 1), 2),
    ],
)
def test_every_mesh_and_number_of_parts_agree(case, shape, parts):
    values, gradients = one_step(CASES[case], shape, parts)
    told, right = expected(case)
    assert values.keys() == told.keys()
    for name, value in told.items():
        assert values[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    flat = jax.tree_util.tree_leaves_with_path(right)
    for (path, one), other in zip(flat, jax.tree.leaves(gradients), strict=True):
        assert np.abs(one).max() > 0, path
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * np.abs(one).max(), err_msg=str(path))


def test_a_part_left_out_would_be_noticed():
    right = expected("dpo")[1]
    missing = {name: values.copy() for name, values in material().items()}
    missing["pair_turn"][0] = 0
    mesh = make_mesh(MeshSettings(data=1, fsdp=1), jax.devices()[:1])
    graph, params = nnx.split(random_decoder(SPEC), nnx.Param)
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(params))
    with jax.set_mesh(mesh):
        state = new_state(nnx.to_pure_dict(params), MasterCopies(optax.sgd(RATE)), mesh)
        objective = stage_of(CASES["dpo"]).objective(3)
        state, _ = train_step(graph, objective, MasterCopies(optax.sgd(RATE)), state, mesh)(state, place(missing, mesh))
    found = (before["layers"]["gate"] - np.asarray(state["params"]["layers"]["gate"])) / RATE
    assert np.abs(found - right["layers"]["gate"]).max() > 1e-3 * np.abs(right["layers"]["gate"]).max()


def test_one_process_feeds_all_rows():
    assert local_rows(make_mesh(MeshSettings(data=2, fsdp=4)), 16) == slice(0, 16)
