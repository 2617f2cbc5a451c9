"""Meshes, and the one table of logical axes."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from aloe_jax import config
from aloe_jax.errors import AloeError
from aloe_jax.parallel import mesh as meshes


def test_minus_one_takes_what_is_left():
    assert dict(meshes.make_mesh(config.Mesh(data=2, fsdp=-1, tensor=2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(meshes.make_mesh(config.Mesh()).shape) == {"data": 1, "fsdp": 8, "tensor": 1}


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"data": 3, "fsdp": 1}, "needs 3 devices, 8 are here"),
        ({"data": -1, "fsdp": -1}, "at most one of them -1"),
        ({"tensor": 0}, "sizes must be positive"),
        ({"data": 16}, "needs 16 devices, 8 are here"),
        ({"data": 3, "fsdp": -1}, "needs 6 devices, 8 are here"),
    ],
)
def test_sizes_that_do_not_fit(sizes, told):
    with pytest.raises(AloeError, match=told):
        meshes.make_mesh(config.Mesh(**sizes))


def test_a_mesh_axis_used_twice_is_refused():
    with pytest.raises(AloeError, match="vocab needs mesh axis"):
        meshes.mesh_axes(("query_heads", "vocab"))
    with pytest.raises(ValueError, match="unknown logical axis 'heads'"):
        meshes.mesh_axes(("heads",))


def test_dimensions_that_do_not_divide_are_replicated():
    sizes = {"data": 1, "fsdp": 4, "tensor": 2}
    assert meshes.fitting_spec(sizes, ("vocab", "width"), (101, 64)) == PartitionSpec(None, ("fsdp",))
    assert meshes.fitting_spec(sizes, ("width", "vocab"), (64, 100)) == PartitionSpec(("fsdp",), ("tensor",))


def test_constrain_follows_the_mesh_that_is_set():
    x = np.ones((8, 4, 6), np.float32)
    assert meshes.constrain(jax.numpy.asarray(x), ("batch", "length", "features")).sharding.num_devices == 1
    mesh = meshes.make_mesh(config.Mesh(data=2, fsdp=4))
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: meshes.constrain(x * 2, ("batch", "length", "features")))(x)
    assert y.sharding.spec == PartitionSpec(("data", "fsdp")) or y.sharding.spec[0] == ("data", "fsdp")
    np.testing.assert_array_equal(np.asarray(y), 2 * x)
