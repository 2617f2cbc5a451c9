"""Meshes of TPU slices that are not here, and what programs compiled for them exchange."""

import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from aloe_jax.errors import AloeError
from aloe_jax.parallel.collectives import Collective, collectives
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.parallel.topology import TOPOLOGIES, compile_for, tpu_mesh

needs_libtpu = pytest.mark.skipif(
    "TPU_LIBRARY_PATH" not in os.environ and importlib.util.find_spec("libtpu") is None,
    reason="no libtpu: `make test` puts it beside the environment on Linux x86-64",
)


def on(mesh, shape, spec, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


@needs_libtpu
def test_a_slice_is_a_mesh():
    mesh = tpu_mesh("v5e:2x4", MeshSettings(data=2, fsdp=-1, tensor=2))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert mesh.devices.flat[0].device_kind == "TPU v5 lite"


@needs_libtpu
def test_every_listed_topology_exists():
    for generation, shapes in TOPOLOGIES.items():
        for shape in shapes:
            chips = np.prod([int(side) for side in shape.split("x")])
            cores = 2 if generation == "tpu7x" else 1
            assert tpu_mesh(f"{generation}:{shape}", MeshSettings()).size == chips * cores, shape


@needs_libtpu
@pytest.mark.parametrize("shape", [MeshSettings(data=4, fsdp=-1, tensor=2), MeshSettings(data=-1, fsdp=1, tensor=2)])
def test_only_the_data_axis_goes_across_slices(shape):
    mesh = tpu_mesh("v5e:2x2", shape, slices=2)
    assert dict(mesh.shape) == {"data": 4, "fsdp": 1, "tensor": 2}
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    assert (slices == np.array([0, 0, 1, 1])[:, None, None]).all()


@needs_libtpu
@pytest.mark.parametrize(
    ("topology", "shape", "slices", "told"),
    [
        ("v5litepod-16", {}, 1, "knows no 'v5litepod-16'.*v5e: 1x1, 2x2"),
        ("trillium", {}, 1, "v6e: 1x1"),
        ("v5e:3x3", {}, 1, "knows no 'v5e:3x3'"),
        ("v5e:2x2", {"data": 3}, 1, "needs 3 devices, there are 4"),
        ("v5e:2x2", {"data": 3}, 2, "mesh.data: 3 cannot be shared out evenly between 2 slices"),
        ("v5e:2x2", {"data": 2, "tensor": 8}, 2, "needs 8 devices, there are 4"),
    ],
)
def test_what_does_not_fit_is_told(topology, shape, slices, told):
    with pytest.raises(AloeError, match=told):
        tpu_mesh(topology, MeshSettings(**shape), slices)


def test_a_missing_libtpu_is_told():
    program = (
        "import sys; sys.modules['libtpu'] = None\n"
        "from aloe_jax.parallel.settings import MeshSettings\nfrom aloe_jax.parallel.topology import tpu_mesh\n"
        "tpu_mesh('v5e:2x2', MeshSettings())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TPU_LIBRARY_PATH"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert "AloeError: topology: compiling for TPUs needs libtpu" in done.stderr


@needs_libtpu
def test_a_compiled_program_tells_its_memory_and_its_collectives(capfd):
    mesh = tpu_mesh("v5e:2x4", MeshSettings(fsdp=4, tensor=2))
    rows = PartitionSpec("fsdp")
    x, weight = on(mesh, (64, 1024), rows), on(mesh, (1024, 4096), PartitionSpec("fsdp", "tensor"))

    def step(weight, x):
        gradient = jax.grad(lambda w: jnp.square(jax.lax.with_sharding_constraint(x @ w, rows)).sum())(weight)
        return weight - gradient

    compiled = compile_for(mesh, step, weight, x, donate=(0,))
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes == 1024 * 4096 * 4 // 8
    assert memory.peak_memory_in_bytes < 2**27
    found = collectives(compiled, mesh)
    assert ("all-gather", ("fsdp",), (1024, 2048)) in [(each.kind, each.axes, each.shape) for each in found]
    assert any(each.axes == ("tensor",) for each in found)
    assert not any(each.axes == ("data",) for each in found)
    assert capfd.readouterr() == ("", "")  # libtpu is silent


class Text:
    """A compiled program of one line."""

    def __init__(self, line):
        self.line = line

    def as_text(self):
        return f"ENTRY %main {{\n  {self.line}\n  {self.line}\n}}"


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", ("tensor",)),
        ("replica_groups={{0,2},{1,3},{4,6},{5,7}}", ("fsdp",)),
        ("replica_groups=[4,2]<=[8]", ("tensor",)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", ("data",)),
        ("replica_groups=[2,4]<=[8]", ("fsdp", "tensor")),
        ("replica_groups=[1,8]<=[8]", ("data", "fsdp", "tensor")),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_1'}", ("tensor",)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2,'axis_2'=2] {'axis_0','axis_1'}", ("data", "fsdp")),
        ("replica_groups=mesh['axis_0'=8] {'axis_0':(1)2}", ("data", "fsdp", "tensor")),  # not understood: all
        ("source_target_pairs={{0,2},{2,0},{1,3},{3,1}}", ("fsdp",)),
    ],
)
def test_axes_of_a_collective(groups, axes):
    mesh = make_mesh(MeshSettings(data=2, fsdp=2, tensor=2))
    kind = "collective-permute" if "pairs" in groups else "all-gather"
    line = f'%x.1 = bf16[8,16]{{1,0:T(8,128)}} {kind}(%y), channel_id=3, {groups}, metadata={{op_name="jit(f)/dot"}}'
    assert collectives(Text(line), mesh) == [Collective(kind, axes, "bf16", (8, 16), "jit(f)/dot")]
