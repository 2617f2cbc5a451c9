"""What a step works with on a CPU stays with the process: counted in pages that the system maps anew."""

import json
import os
import platform
import subprocess
import sys
from statistics import median
from types import SimpleNamespace

import numpy as np
import pytest

from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.settings import dump_settings
from aloe_jax.training import host_memory
from aloe_jax.training.callback import Reached

# Two devices, each with 32 intermediate arrays of 8 MiB, which the backward pass needs.
STEPS = """
import json, resource, sys
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from aloe_jax.training.host_memory import keep_freed, use_one_arena
if sys.argv[1] == "one arena":
    use_one_arena()
mesh = jax.make_mesh((2,), ("data",))
def loss(x):
    for _ in range(32):
        x = jax.lax.optimization_barrier(jnp.sin(x))
    return x.sum()
gradient = jax.jit(lambda x: jax.grad(loss)(x).max())
x = jax.device_put(jnp.ones((2, 2**21)), NamedSharding(mesh, PartitionSpec("data")))
jax.block_until_ready(gradient(x))
keep_freed()
faults = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
for _ in range(16):
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
        return json.loads(run.stdout)

    assert median(pages("as it is")) > 2 * 32 * 2048  # the control: every page of 4 KiB of every array
    # The first few may each have more in use at once than those before, until the devices have overlapped fully.
    assert median(pages("one arena")) < 2000


def test_memory_is_kept_once_the_first_step_of_a_cpu_is_compiled(monkeypatch):
    kept = []
    monkeypatch.setattr(host_memory, "keep_freed", lambda: kept.append(True))

    def reached(first):
        return Reached(1, {}, {}, first=first, last=False)

    other = SimpleNamespace(devices=np.array([SimpleNamespace(platform="tpu")]))
    host_memory.KeepFreed(other).after(reached(True))
    callback = host_memory.KeepFreed(make_mesh(MeshSettings()))
    callback.after(reached(False))
    assert not kept
    callback.after(reached(True))
    assert kept == [True]


COMPILED = """
import sys
from aloe_jax.settings import load_settings
from aloe_jax.training.run import train
from aloe_jax.training.settings import TrainSettings
import jax
jax.config.update("jax_compilation_cache_dir", sys.argv[2])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
train(load_settings(TrainSettings, sys.argv[1]))
"""


def test_a_second_process_finds_the_compiled_step(settings, tmp_path):
    """Nothing about the step keeps it out of the persistent compilation cache, and nothing is printed about it."""
    logs = []
    for number in range(2):
        (tmp_path / "run.yaml").write_text(dump_settings(settings(output=f"run{number}", steps=2)))
        command = [sys.executable, "-c", COMPILED, str(tmp_path / "run.yaml"), str(tmp_path / "cache")]
        found = subprocess.run(command, env=os.environ | {"JAX_DEBUG_LOG_MODULES": "jax._src.compiler"},
                               capture_output=True, text=True, check=True)  # fmt: skip
        assert "Error writing persistent compilation cache" not in found.stderr
        logs.append([text for text in found.stderr.splitlines() if "'jit_step'" in text])
    assert any("not in" in text or "miss" in text.lower() for text in logs[0]), logs[0]
    assert any("hit" in text.lower() for text in logs[1]), logs[1]
    assert not any("miss" in text.lower() for text in logs[1]), logs[1]
