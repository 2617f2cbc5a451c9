"""Validation of a run that talks: how held-out personas rate the policy, every so many steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aloe_jax.rollouts.rollout import Rollout
from aloe_jax.rollouts.statistics import statistics
from aloe_jax.training.callback import Reached
from aloe_jax.training.periodic import Periodic
from aloe_jax.training.reporting import Reporting


class RolloutValidation(Periodic):
    """Talks with held-out personas, one reply a turn.

    The users draw the same seeds every time. The best checkpoint is the one with the highest mean reward: what other
    stages call the validation loss is its negative.
    """

    kind, doing = "validation", "validating"

    def __init__(
        self, every: int, steps: int, turns: int, converse: Callable[[], list[Rollout]], reporting: Reporting
    ) -> None:
        """`converse` draws with the weights of the step that is reached."""
        super().__init__(every, steps, reporting)
        self._turns, self._converse = turns, converse
        self._loss: float | None = None

    def talk(self) -> Mapping[str, float]:
        """See `statistics`."""
        return statistics(self._converse(), self._turns)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """As other stages show theirs."""
        self._reporting.display.validation(step, values)

    def keep(self, step: int, values: Mapping[str, float]) -> None:
        """The checkpoint gets its loss, as if it had been saved after this."""
        if "reward" in values:
            self._reporting.score(step, -values["reward"])

    def after(self, reached: Reached) -> None:
        """Validate where it is due; later callbacks find the loss in `reached`."""
        self._loss = None
        super().after(reached)
        if self._loss is not None:
            reached.validation_loss = self._loss

    def perform(self, step: int, saved: bool = False) -> Mapping[str, float] | None:
        """See `Periodic`."""
        values = super().perform(step, saved)
        if values is not None and "reward" in values:
            self._loss = -values["reward"]
        return values
