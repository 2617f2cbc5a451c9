"""Settings of the device mesh."""

from __future__ import annotations

from pydantic import model_validator

from aloe_jax.ranges import Devices
from aloe_jax.settings import Section


class MeshSettings(Section):
    """Devices per mesh axis; -1 takes what is left."""

    data: Devices = 1
    fsdp: Devices = -1
    tensor: Devices = 1

    @model_validator(mode="after")
    def _one_rest(self) -> MeshSettings:
        sizes = [self.data, self.fsdp, self.tensor]
        if sizes.count(-1) > 1 or 0 in sizes:
            raise ValueError(f"data, fsdp and tensor must be positive, at most one of them -1, not {sizes}")
        return self
