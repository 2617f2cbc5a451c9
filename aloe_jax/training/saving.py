"""Saving: a checkpoint every so many steps and at the end, with the position in the data."""

from __future__ import annotations

from collections.abc import Callable

from aloe_jax.json_value import JSON
from aloe_jax.storage.mirror import Mirror
from aloe_jax.training.callback import Callback, Reached
from aloe_jax.training.checkpoint import Checkpoints
from aloe_jax.training.reporting import Reporting


class Saving(Callback):
    """Saves every `every` steps and after the last one."""

    def __init__(
        self,
        every: int,
        checkpoints: Checkpoints,
        position: Callable[[int], dict[str, JSON]],
        mirror: Mirror,
        reporting: Reporting,
    ):
        self._every, self._checkpoints, self._position = every, checkpoints, position
        self._readings, self._mirror, self._display = reporting.readings, mirror, reporting.display

    def after(self, reached: Reached) -> None:
        """Save where it is due."""
        if reached.step % self._every == 0 or reached.last:
            self._save(reached)

    def ended(self, reached: Reached) -> None:
        """Save what is not saved yet."""
        if reached.step % self._every:
            self._save(reached)

    def _save(self, reached: Reached) -> None:
        self._readings.flush()  # never save a state whose loss nobody has looked at
        with self._display.stage("saving"):
            self._mirror.publish()  # first: a resumed run goes on with the records of the steps before it
            position = self._position(reached.step)
            self._checkpoints.save(reached.step, reached.state, position, reached.validation_loss)
