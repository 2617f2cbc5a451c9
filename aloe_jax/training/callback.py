"""What happens beside the steps of a run: one small protocol for metrics, display, checkpoints, profiles and more."""

from __future__ import annotations

from dataclasses import dataclass

from aloe_jax.errors import AloeError
from aloe_jax.training.step import State
from aloe_jax.training.totals import Totals


class NoBatchError(AloeError):
    """There is no further batch, or what is due after the last one could not be completed.

    `failed`: the run should say so by its status; otherwise it was asked to end. `signalled`: by a signal, which is no
    failure before the first step either.
    """

    def __init__(self, message: str, failed: bool, signalled: bool = False) -> None:
        super().__init__(message)
        self.failed, self.signalled = failed, signalled


@dataclass
class Reached:
    """A step that was dispatched. Reading its arrays waits for the devices."""

    step: int  # steps done with this one
    state: State  # the next step donates it
    totals: Totals
    first: bool  # of this process: it was compiled
    last: bool  # the run ends after it
    validation_loss: float | None = None  # where callbacks before this one validated
    unfinished: NoBatchError | None = None  # of the last step of a run: why a callback has to make up for something


class Callback:
    """Called around every step of the loop, in the order of the list that the loop was given."""

    def before(self, step: int) -> None:
        """Step `step` (from 1) is about to be dispatched.

        Called once with the number after the last step where a start finds all steps done; raises NoBatchError where
        what is left to do then cannot be completed.
        """

    def after(self, reached: Reached) -> None:
        """A step was dispatched."""

    def ended(self, reached: Reached) -> None:
        """The run ends after a step that `after` was called for, because no further batch can be had."""
