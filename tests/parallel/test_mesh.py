"""Meshes, and the one table of logical axes."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from aloe_jax.errors import AloeError
from aloe_jax.parallel import mesh as meshes
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.parallel.topology import tpu_mesh
from tests.parallel.test_topology import needs_libtpu


def test_minus_one_takes_what_is_left():
    assert dict(meshes.make_mesh(MeshSettings(data=2, fsdp=-1, tensor=2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(meshes.make_mesh(MeshSettings()).shape) == {"data": 1, "fsdp": 8, "tensor": 1}


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"data": 3, "fsdp": 1}, "needs 3 devices, there are 8"),
        ({"data": 16}, "needs 16 devices, there are 8"),
        ({"data": 3, "fsdp": -1}, "needs 6 devices, there are 8"),
    ],
)
def test_sizes_that_do_not_fit(sizes, told):
    with pytest.raises(AloeError, match=told):
        meshes.make_mesh(MeshSettings(**sizes))


@pytest.mark.parametrize("sizes", [{"data": -1, "fsdp": -1}, {"tensor": 0}])
def test_sizes_that_no_machine_has(sizes):
    with pytest.raises(ValueError, match="must be positive, at most one of them -1"):
        MeshSettings(**sizes)


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
    mesh = meshes.make_mesh(MeshSettings(data=2, fsdp=4))
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: meshes.constrain(x * 2, ("batch", "length", "features")))(x)
    assert y.sharding.spec == PartitionSpec(("data", "fsdp")) or y.sharding.spec[0] == ("data", "fsdp")
    np.testing.assert_array_equal(np.asarray(y), 2 * x)


@dataclass(frozen=True)
class Chip:
    """A device of a machine that is not here."""

    id: int
    slice_index: int
    platform: str = "tpu"
    device_kind: str = "made up"
    process_index: int = 0
    core_on_chip: int = 0

    @property
    def coords(self):
        return (self.id % 4, 0, 0)


def slices_along(mesh):
    return np.vectorize(lambda device: device.slice_index)(mesh.devices)


@pytest.mark.parametrize(
    "shape", [{"data": 4, "fsdp": 2}, {"data": 2, "fsdp": 4}, {"data": -1, "fsdp": 2, "tensor": 2}]
)
def test_only_the_data_axis_goes_from_slice_to_slice(shape):
    """Whatever the order in which processes name their devices."""
    mixed = [Chip(number, slice_index=number // 4) for number in (4, 0, 5, 1, 6, 2, 7, 3)]
    mesh = meshes.make_mesh(MeshSettings(**shape), mixed)
    assert sorted(device.id for device in mesh.devices.flat) == list(range(8))
    found = slices_along(mesh)
    assert (found == found[:, :1, :1]).all()
    assert found[:, 0, 0].tolist() == sorted(found[:, 0, 0].tolist())


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"data": 1, "fsdp": -1}, "mesh.data: 1 cannot be shared out evenly between 2 slices"),
        ({"data": 3}, "mesh.data: 3 cannot be shared out evenly between 2 slices"),
        ({"data": 2, "fsdp": 8}, "needs 8 devices, there are 4"),
    ],
)
def test_a_data_axis_that_slices_cannot_share_is_refused(sizes, told):
    with pytest.raises(AloeError, match=told):
        meshes.make_mesh(MeshSettings(**sizes), [Chip(number, slice_index=number // 4) for number in range(8)])


def test_hosts_of_gpus_may_share_any_axis():
    """JAX calls them slices too."""
    gpus = [Chip(number, slice_index=number // 4, platform="gpu") for number in (4, 0, 5, 1, 6, 2, 7, 3)]
    mesh = meshes.make_mesh(MeshSettings(fsdp=-1), gpus)
    assert dict(mesh.shape) == {"data": 1, "fsdp": 8, "tensor": 1}
    assert slices_along(mesh).flatten().tolist() == [0] * 4 + [1] * 4


@needs_libtpu
def test_sizes_may_cut_through_a_side_of_a_slice():
    assert dict(tpu_mesh("v6e:8x8", MeshSettings(fsdp=-1, tensor=4)).shape) == {"data": 1, "fsdp": 16, "tensor": 4}
