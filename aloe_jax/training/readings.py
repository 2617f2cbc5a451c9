"""Metrics fetched from the devices: logged where they are finite, and the end of the run where they are not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import jax
import numpy as np

from aloe_jax.errors import AloeError
from aloe_jax.parallel import distributed
from aloe_jax.storage.files import write_atomically
from aloe_jax.training.callback import Callback, Reached
from aloe_jax.training.display import Display
from aloe_jax.training.metrics import MetricsLog
from aloe_jax.training.step_clock import StepTime
from aloe_jax.training.throughput import Counts, Throughput
from aloe_jax.training.totals import Totals, perplexity, read


class Described(Protocol):
    """What is known on the host of batch `step` (0-based); see source.py."""

    def work(self, step: int) -> tuple[int, int, float]:
        """(tokens, pairs, FLOPs), padding not counted."""
        ...

    def conversations(self, step: int) -> list[str]:
        """The ids of its conversations."""
        ...

    def statistics(self, step: int) -> Mapping[str, float]:
        """Metrics beside those that its step computes."""
        ...

    def dispatched(self, step: int, totals: Totals) -> None:
        """The devices have it, and will have computed `totals` when its updates are done."""
        ...

    def time(self, step: int) -> StepTime | None:
        """What its time went into, once its totals were fetched; None where nobody counts that."""
        ...


class Readings(Callback):
    """Logs every step's metrics and shows their means every `every` steps, with the speed.

    Totals stay on the devices until then: fetching them waits for the steps.
    """

    def __init__(
        self,
        every: int,
        batches: Described,
        rate: Callable[[int], float],
        log: MetricsLog,
        display: Display,
        directory: Path,
        devices: list[jax.Device],
    ):
        self._every, self._batches, self._rate = every, batches, rate
        self._log, self._display, self._directory = log, display, directory
        self._throughput = Throughput(devices)
        self._pending: list[tuple[int, Totals, Counts | None]] = []  # (steps done, totals still on the devices, work)
        self._timed: list[tuple[Counts, StepTime]] = []  # of the steps since the last reading

    def after(self, reached: Reached) -> None:
        """Count the step; log and show where it is due."""
        self._batches.dispatched(reached.step - 1, reached.totals)
        work = self._batches.work(reached.step - 1)
        self._pending.append((reached.step, reached.totals, None if reached.first else work))
        if reached.first:
            self.restart_clock()  # the time of compiling is not training time
        else:
            self._throughput.add(*work)
        if reached.step % self._every == 0 or reached.last:
            values, speed = self.flush(), self._throughput.read()
            if self._timed:
                speed = self._throughput.timed(self._timed)
                self._log.write(reached.step, "speed", speed)
                self._timed = []
            else:
                self._log.write_speed(reached.step, speed)
            self._display.step(reached.step, values | speed)

    def ended(self, reached: Reached) -> None:
        """Show what was not shown yet."""
        if reached.step % self._every:
            self._display.step(reached.step, self.flush())

    def restart_clock(self) -> None:
        """The time since the last reading was spent on something other than steps."""
        self._throughput.read()

    def wait(self) -> None:
        """Block until the devices have finished all steps so far."""
        jax.block_until_ready([totals for _, totals, _ in self._pending])

    def flush(self) -> dict[str, float]:
        """Fetch and log the metrics of the steps since the last time; their means.

        Raises AloeError for a loss or gradient that is not finite; a file names the conversations of that step.
        """
        rows: list[dict[str, float]] = []
        for step, totals, work in self._pending:
            values = read(totals) | dict(self._batches.statistics(step - 1))
            time = self._batches.time(step - 1)
            if time is not None and work is not None:
                self._timed.append((work, time))
            if not (np.isfinite(values.get("loss", 0.0)) and np.isfinite(values["grad_norm"])):
                raise self._diverged(step, values)
            values["learning_rate"] = float(self._rate(step - 1))
            self._log.write(step, "train", values)
            rows.append(values)
        self._pending = []
        names = dict.fromkeys(name for row in rows for name in row)
        means = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
        if "nll" in means:
            means["perplexity"] = perplexity(means["nll"])  # a mean of exponentials is another number
        return means

    def _diverged(self, step: int, values: dict[str, float]) -> AloeError:
        path = self._directory / f"nonfinite-{step}.json"
        if distributed.is_lead():
            found = {"step": step, "metrics": str(values), "trees": self._batches.conversations(step - 1)}
            write_atomically(path, json.dumps(found, indent=1))
        return AloeError(
            f"{path}: the loss or gradient of step {step} is not finite; the file names its conversations. "
            "Lower optimizer.learning_rate, or take the conversation out, and run again from the last checkpoint"
        )
