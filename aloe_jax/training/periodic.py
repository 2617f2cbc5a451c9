"""What is done with held-out personas every so many steps, and made up for where a run ended before it was complete."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from aloe_jax.llm.budget import BudgetError
from aloe_jax.llm.protocol import UnavailableError
from aloe_jax.rollouts.drawing import EndedError
from aloe_jax.training.callback import Callback, NoBatchError, Reached
from aloe_jax.training.reporting import Reporting


class Periodic(Callback, ABC):
    """Talks every `every` steps and after the last of `steps`, and logs a record of its `kind`.

    Where a signal or the budget ends the run meanwhile, there is no record: the next start begins with that talk, of
    the same weights, so that its file equals an undisturbed run's. So it does after the last step, whatever the reason.
    Where a provider is out of reach while the run goes on, that talk is skipped, and a note says so.
    """

    kind: ClassVar[str]
    doing: ClassVar[str]  # what the display shows meanwhile

    def __init__(self, every: int, steps: int, reporting: Reporting) -> None:
        self._every, self._steps, self._reporting = every, steps, reporting
        self._begun = False
        self._cut: NoBatchError | None = None  # what cut the newest talk short

    @abstractmethod
    def talk(self) -> Mapping[str, float]:
        """The values of a record, of the newest weights. Raises what a drawing of rollouts does."""

    @abstractmethod
    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Show a record that was logged after `step` steps."""

    def keep(self, step: int, values: Mapping[str, float]) -> None:
        """What else becomes of a record that is made up for: the checkpoint of `step` is saved already."""

    def before(self, step: int) -> None:
        """Make up for what is due after the step before the first one of this start."""
        begun, self._begun = self._begun, True
        if begun or step == 1 or not self._due(step - 1):
            return
        if not any(record["step"] == step - 1 for record in self._reporting.log.records(self.kind)):
            self.perform(step - 1, saved=True)
            if self._cut is not None and step > self._steps:
                raise self._cut

    def after(self, reached: Reached) -> None:
        """Talk where it is due."""
        if self._due(reached.step):
            self._reporting.readings.wait()  # the steps' time is not this one's
            self.perform(reached.step)
            if self._cut is not None and reached.step == self._steps:
                reached.unfinished = self._cut

    def perform(self, step: int, saved: bool = False) -> Mapping[str, float] | None:
        """Talk, log and show; None where that was cut short, of which a note says why.

        `saved`: the checkpoint of `step` is there already.
        """
        self._cut = None
        try:
            with self._reporting.display.stage(self.doing):
                values = self.talk()
        except (EndedError, BudgetError, UnavailableError) as error:
            skipped, signalled = isinstance(error, UnavailableError), isinstance(error, EndedError)
            self._cut = NoBatchError(str(error), skipped, signalled)
            self._reporting.display.note(f"{self.doing} at step {step} was not completed: {error}")
            return None
        if saved:
            self.keep(step, values)  # first: with its record, nothing is made up for
        self._reporting.log.write(step, self.kind, values)
        self.show(step, values)
        self._reporting.readings.restart_clock()
        return values

    def _due(self, step: int) -> bool:
        return step % self._every == 0 or step == self._steps
