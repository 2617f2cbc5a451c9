"""The digest of weights: any change is seen, no mesh changes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aloe_jax.models.digest import weights_digest
from aloe_jax.models.native.decoder import DecoderSpec
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.parallel.settings import MeshSettings
from tests.random_models import random_decoder

SPEC = DecoderSpec(vocab=48, layers=2, width=16, query_heads=4, kv_heads=2, head_size=4, feed_forward=24, max_length=64)


def params():
    return nnx.to_pure_dict(nnx.state(random_decoder(SPEC), nnx.Param))


@pytest.mark.parametrize("shape", [(1, 8, 1), (2, 2, 2), (1, 2, 4)])
def test_every_mesh_gives_the_same(shape):
    mesh = make_mesh(MeshSettings(data=shape[0], fsdp=shape[1], tensor=shape[2]))
    assert weights_digest(jax.device_put(params(), SPEC.shardings(mesh))) == weights_digest(params())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4", "float8_e4m3fn"])
def test_one_value_two_swapped_values_and_the_type_are_seen(dtype):
    values = jnp.arange(24).reshape(2, 3, 4).astype(dtype) - 4
    digests = {weights_digest({"w": values})}
    for changed in (
        values.at[1, 2, 3].set(0),
        values.at[0, 0, 0].set(values[0, 0, 1]).at[0, 0, 1].set(values[0, 0, 0]),  # two swapped
        values[::-1],
        values.reshape(3, 2, 4),
    ):
        digests.add(weights_digest({"w": changed}))
    digests |= {weights_digest({"v": values}), weights_digest({"w": values}, "another template")}
    assert len(digests) == 7
    if dtype == "float32":
        assert weights_digest({"w": values.astype(jnp.bfloat16)}) not in digests


def test_zero_and_minus_zero_differ():
    assert weights_digest({"w": np.zeros(4, np.float32)}) != weights_digest({"w": -np.zeros(4, np.float32)})
