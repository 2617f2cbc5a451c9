"""Validation: the objective over held-out rows, every so many steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from aloe_jax.data.loader import Batch
from aloe_jax.errors import AloeError
from aloe_jax.parallel.distributed import place
from aloe_jax.training.callback import Callback, Reached
from aloe_jax.training.reporting import Reporting
from aloe_jax.training.step import Params, Step
from aloe_jax.training.totals import Totals, add, read


class Validation(Callback):
    """Computes `batches` every `every` steps and after the last of `steps`; raises AloeError for a loss not finite."""

    def __init__(
        self,
        every: int,
        steps: int,
        evaluate: Step[Params, Totals],
        batches: Sequence[Batch],
        mesh: Mesh,
        reporting: Reporting,
    ):
        self._every, self._steps = every, steps
        self._evaluate, self._batches, self._mesh = evaluate, batches, mesh
        self._readings, self._log, self._display = reporting.readings, reporting.log, reporting.display

    def after(self, reached: Reached) -> None:
        """Validate where it is due; later callbacks find the loss in `reached`."""
        if reached.step % self._every and reached.step != self._steps:
            return
        self._readings.wait()  # the steps' time is not the validation's
        with self._display.stage("validating"):
            values = self._validate(reached.state["params"])
        if not np.isfinite(values.get("loss", 0.0)):
            raise AloeError(
                f"the validation loss after step {reached.step} is {values['loss']}: the training diverged, and that "
                "step is not saved; lower optimizer.learning_rate and give another output"
            )
        self._log.write(reached.step, "validation", values)
        self._display.validation(reached.step, values)
        reached.validation_loss = values.get("loss")
        self._readings.restart_clock()

    def _validate(self, params: Params) -> dict[str, float]:
        totals, *more = (self._evaluate(params, place(batch, self._mesh)) for batch in self._batches)
        for other in more:
            totals = add(totals, other)
        return read(totals)
