"""Validation of a run that talks: how held-out personas rate the policy, every so many steps."""

from __future__ import annotations

from collections.abc import Callable

from aloe_jax.llm.budget import BudgetError
from aloe_jax.llm.protocol import UnavailableError
from aloe_jax.rollouts.rollout import Rollout
from aloe_jax.rollouts.statistics import statistics
from aloe_jax.training.callback import Callback, Reached
from aloe_jax.training.reporting import Reporting


class RolloutValidation(Callback):
    """Talks with held-out personas, one reply a turn, every `every` steps and after the last of `steps`.

    The users draw the same seeds every time. The best checkpoint is the one with the highest mean reward: what other
    stages call the validation loss is its negative.
    """

    def __init__(
        self, every: int, steps: int, turns: int, converse: Callable[[], list[Rollout]], reporting: Reporting
    ) -> None:
        """`converse` draws with the weights of the step that is reached."""
        self._every, self._steps, self._turns = every, steps, turns
        self._converse, self._reporting = converse, reporting

    def after(self, reached: Reached) -> None:
        """Validate where it is due; later callbacks find the loss in `reached`."""
        if reached.step % self._every and reached.step != self._steps:
            return
        self._reporting.readings.wait()
        try:
            with self._reporting.display.stage("validating"):
                rollouts = self._converse()
        except (BudgetError, UnavailableError) as error:  # the next rollouts meet it, and end the run saved
            self._reporting.display.note(f"not validated at step {reached.step}: {error}")
            return
        values = statistics(rollouts, self._turns)
        self._reporting.log.write(reached.step, "validation", values)
        self._reporting.display.validation(reached.step, values)
        if "reward" in values:
            reached.validation_loss = -values["reward"]
        self._reporting.readings.restart_clock()
