"""The training step of a model of Llama 3 8B's width, compiled for a TPU slice: what its chips exchange."""

import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from aloe_jax.data.loader import FIELDS
from aloe_jax.models.native.decoder import Decoder, DecoderSpec
from aloe_jax.models.spec import Compute
from aloe_jax.models.weights import nested, weight_sharding
from aloe_jax.parallel.collectives import collectives
from aloe_jax.parallel.mesh import sharding
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.parallel.topology import QUICK, compile_for, tpu_mesh
from aloe_jax.training.master import MasterCopies
from aloe_jax.training.optimizer import make_optimizer, state_shardings
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages.stage import stage_of
from aloe_jax.training.step import train_step
from tests.parallel.test_topology import needs_libtpu

ROWS, LENGTH, SCORED, REPLIES, PAIRS = 8, 2048, 1280, 25, 12
SPEC = DecoderSpec(
    vocab=128_256, layers=2, width=4096, query_heads=32, kv_heads=8, head_size=128, feed_forward=14336,
    max_length=8192, rope_theta=5e5, tie_embeddings=False, bos_id=0, eos_ids=(1,), pad_id=0,
)  # fmt: skip


def abstract_state(mesh, optimizer):
    """Parameters in float32 and the optimizer's state, as shapes with their places on the mesh."""
    params = nested(
        {
            name: jax.ShapeDtypeStruct(weight.shape, jnp.float32, sharding=weight_sharding(weight, mesh))
            for name, weight in SPEC.weights().items()
        }
    )
    made = jax.eval_shape(optimizer.init, params)
    placed = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        made,
        state_shardings(made, params, mesh),
    )
    return {"params": params, "optimizer": placed}


def abstract_batch(mesh):
    sizes = {"scored": (SCORED,), "pairs": (PAIRS, 2), "pair_turn": (PAIRS,), "reply_length": (REPLIES,), "length": ()}
    shapes = {name: (ROWS, *sizes.get(name, (LENGTH,))) for name in FIELDS}
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()}
    batch["reference"] = jax.ShapeDtypeStruct((ROWS, PAIRS, 2), jnp.float32)
    return {
        name: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding(mesh, ("batch", *(None,) * (leaf.ndim - 1)), leaf.shape)
        )
        for name, leaf in batch.items()
    }


def compiled_step(mesh):
    compute = Compute(attention="tpu", remat="full", dtype="bfloat16")
    graph, _ = nnx.split(nnx.eval_shape(lambda: Decoder(SPEC, rngs=nnx.Rngs(0), compute=compute)), nnx.Param)
    settings = TrainSettings(stage="dpo", output="run", model={"path": "model"}, data={"path": "data"})
    optimizer = MasterCopies(make_optimizer(settings.optimizer, steps=100))
    state = abstract_state(mesh, optimizer)
    step = train_step(graph, stage_of(settings).objective(PAIRS), optimizer, state, mesh)
    return compile_for(mesh, step.compiled, state, (), abstract_batch(mesh), options=QUICK)


def like_weights(mesh):
    """Shapes, sorted and without ones, in which weights and their gradients may travel along the batch axes: split
    over `tensor`, and along the width whole, or the part or half part of a device."""
    found = set()
    for weight in SPEC.weights().values():
        local = weight_sharding(weight, mesh).shard_shape(weight.shape)
        for part in (1, mesh.shape["fsdp"], 2 * mesh.shape["fsdp"]):
            shape = [
                SPEC.width // part if axis == "width" else size
                for axis, size in zip(weight.axes, local, strict=True)
                if axis != "layers"
            ]
            found.add(plain(shape))
    return found


def plain(shape):
    return tuple(sorted(size for size in shape if size > 1))


def over_batch_axes(compiled, mesh):
    """The collectives between chips that have other rows, of more than a vector of the model's width."""
    found = [each for each in collectives(compiled, mesh) if {"data", "fsdp"} & set(each.axes)]
    return [each for each in found if math.prod(each.shape) > SPEC.width]


@needs_libtpu
@pytest.mark.parametrize(
    "shape",
    [MeshSettings(fsdp=4, tensor=2), pytest.param(MeshSettings(data=2, fsdp=4), marks=pytest.mark.soak)],
    ids=str,
)
def test_only_weights_and_their_gradients_travel_between_rows(shape):
    mesh = tpu_mesh("v5e:2x4", shape)
    compiled = compiled_step(mesh)
    found = over_batch_axes(compiled, mesh)
    assert [each for each in found if plain(each.shape) not in like_weights(mesh)] == []
    gathers = [each for each in found if each.kind == "all-gather"]
    assert {plain(each.shape) for each in gathers} <= like_weights(mesh)
    assert {each.dtype for each in gathers} == {"bf16"}  # cast before they travel, not after
    assert len(gathers) >= 7  # of a layer's seven matrices, at least
    state = compiled.memory_analysis().alias_size_in_bytes
    assert state > 3 * 4 * SPEC.parameter_count() / mesh.size  # parameters and both moments are written over


@needs_libtpu
def test_gathered_activations_are_noticed():
    """The control: rows made whole on every chip."""
    mesh = tpu_mesh("v5e:2x4", MeshSettings(fsdp=4, tensor=2))
    states = jax.ShapeDtypeStruct(
        (ROWS, LENGTH, SPEC.width), jnp.bfloat16, sharding=sharding(mesh, ("batch", None, None), (ROWS, LENGTH, 1))
    )
    whole = jax.jit(jnp.sin, out_shardings=NamedSharding(mesh, PartitionSpec()))
    found = over_batch_axes(compile_for(mesh, whole, states, options=QUICK), mesh)
    assert [plain(each.shape) in like_weights(mesh) for each in found] == [False]
