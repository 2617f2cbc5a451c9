"""Whether a run's state fits into the memory of a machine without accelerators, where Linux would end what does not."""

from __future__ import annotations

import os

from jax.sharding import Mesh

from aloe_jax.errors import AloeError
from aloe_jax.models.spec import ModelSpec
from aloe_jax.training.settings import TrainSettings

_BYTES = {"float32": 4, "bfloat16": 2}


def check_memory(settings: TrainSettings, spec: ModelSpec, mesh: Mesh) -> None:
    """Raise AloeError where the weights and their gradients alone are larger than the memory of this machine.

    Only where CPUs compute: an accelerator refuses what does not fit, Linux hands it out and then ends the process.
    """
    if mesh.devices.flat[0].platform != "cpu" or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    trained = 1 if settings.model.lora is not None else 2
    needed = spec.parameter_count() * _BYTES[settings.model.dtype] * trained
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        what = "weights" if trained == 1 else "weights and gradients"
        raise AloeError(
            f"model: its {what} take {needed / 2**30:,.1f} GiB, and this machine has {there / 2**30:,.1f}; make the "
            "model smaller, or train it on accelerators"
        )
