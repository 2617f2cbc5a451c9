"""Whether the meshes of a sweep fit the devices, without opening them: the runs could not open them any more."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

from aloe_jax.errors import AloeError
from aloe_jax.parallel.mesh import filled
from aloe_jax.parallel.settings import MeshSettings

_COUNT = "import jax; print('devices', jax.device_count())"


def check_mesh(shape: MeshSettings, alone: bool = True) -> None:
    """Raise AloeError where a mesh cannot be made of the devices of this machine.

    `alone`: a single device needs to fit, too; replies are drawn on one without a mesh. The devices are counted, in a
    process of its own, where it matters how many there are.
    """
    sizes = sorted((shape.data, shape.fsdp, shape.tensor))
    if sizes == [-1, 1, 1]:
        return
    devices = device_count(os.environ.get("JAX_PLATFORMS"), os.environ.get("XLA_FLAGS"))
    if devices > 1 or alone:
        filled(shape, devices)


@functools.cache
def device_count(platforms: str | None, flags: str | None) -> int:
    """How many devices a run would find, under these JAX_PLATFORMS and XLA_FLAGS of the environment.

    Raises AloeError where JAX cannot open them.
    """
    del platforms, flags  # they are in the environment; of others there are other devices
    done = subprocess.run([sys.executable, "-c", _COUNT], capture_output=True, text=True, check=False)
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("devices ")]
    if done.returncode or not found:
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise AloeError(
            f"the devices of this machine cannot be counted ({reason[:300]}); training would stop there too"
        )
    return int(found[-1])
