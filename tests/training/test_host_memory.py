"""What a step works with on a CPU stays with the process: counted in pages that the system maps anew."""

import json
import platform
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.training import loop
from aloe_jax.training.host_memory import PIECE, in_pieces

# Two devices, each with 32 intermediate arrays of 8 MiB, which the backward pass needs.
STEPS = """
import json, resource, sys
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from aloe_jax.training.host_memory import PIECE, in_pieces, keep_freed
mesh = jax.make_mesh((2,), ("data",))
def loss(x):
    for _ in range(32):
        x = jax.lax.optimization_barrier(jnp.sin(x))
    return x.sum()
options = in_pieces(mesh, 0 if sys.argv[1] == "pieces" else PIECE + 1)
gradient = jax.jit(lambda x: jax.grad(loss)(x).max(), compiler_options=options)
x = jax.device_put(jnp.ones((2, 2**21)), NamedSharding(mesh, PartitionSpec("data")))
jax.block_until_ready(gradient(x))
keep_freed()
faults = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
for _ in range(6):
    jax.block_until_ready(gradient(x))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(json.dumps([after - before for before, after in zip(faults, faults[1:])]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep what they keep")
def test_steps_find_the_memory_of_the_steps_before_them():
    def pages(how):
        run = subprocess.run(
            [sys.executable, "-c", STEPS, how],
            env={"PATH": "", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stderr == ""
        return json.loads(run.stdout)[-1]

    assert pages("whole") > 2 * 32 * 2048  # the control: every page of 4 KiB of every array
    assert pages("pieces") < 2000


def test_pieces_are_for_cpus_and_for_arrays_that_fit_them():
    mesh = make_mesh(MeshSettings())
    other = SimpleNamespace(devices=np.array([SimpleNamespace(platform="tpu")]))
    assert in_pieces(mesh, PIECE) is not None
    assert in_pieces(mesh, PIECE + 1) is None
    assert in_pieces(other, PIECE) is None


@pytest.mark.parametrize(("feed_forward", "fit"), [(32, True), (2**17, False)])
def test_a_run_asks_for_pieces_where_its_arrays_fit(settings, monkeypatch, feed_forward, fit):
    class Asked(Exception):
        pass

    def train_step(*arguments):
        raise Asked(arguments[-1])

    monkeypatch.setattr(loop, "train_step", train_step)
    sizes = {"layers": 1, "width": 16, "query_heads": 1, "kv_heads": 1, "max_length": 256}
    with pytest.raises(Asked) as asked:
        loop.run(settings(model={"architecture": sizes | {"feed_forward": feed_forward}}))
    assert (asked.value.args[0] is not None) == fit
