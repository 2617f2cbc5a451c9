"""Where a run's numbers go: metrics.jsonl, TensorBoard, Weights & Biases."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from aloe_jax.json_value import JSON
from aloe_jax.storage.files import write_atomically
from aloe_jax.training.charts import Charts
from aloe_jax.training.tracking import WandbRun

RECORDS = "metrics.jsonl"

# What a person watches in every stage, around the stage's own statistics.
_FIRST = {"loss": "loss {:.4f}"}
_LAST = {
    "seconds/generating": "{:.1f} s drawing",
    "seconds/waiting": "{:.1f} s calls",
    "seconds/reference": "{:.1f} s reference",
    "seconds/training": "{:.1f} s training",
    "replies_per_second": "{:,.1f} replies/s",
    "learning_rate": "lr {:.2e}",
    "grad_norm": "|g| {:.2f}",
    "tokens_per_second": "{:,.0f} tok/s",
    "pairs_per_second": "{:,.1f} pairs/s",
    "mfu": "mfu {:.1%}",
}


def formats(own: Mapping[str, str]) -> dict[str, str]:
    """How values are printed, in the order of a line; `own` are those of a stage."""
    return {**_FIRST, **own, **_LAST}


def line(head: str, values: Mapping[str, float], forms: Mapping[str, str]) -> str:
    """One line of the values in `forms`, such as "step 2/6 | loss 0.6931 | …"; values by turn are left out."""
    return " | ".join([head, *(form.format(values[name]) for name, form in forms.items() if name in values)])


class MetricsLog:
    """The records of one run; a resumed run drops those that it is about to write again.

    metrics.jsonl has one JSON object a line: step, kind (train, validation or watch) and values that depend on settings
    and data only, so that a resumed run's file equals an undisturbed one's. Records of kind speed, of runs that draw
    their batches, are the exception. `project` names a project at Weights &
    Biases, `resolved` the settings shown there. With `quiet` (all processes but the first) nothing is written.
    """

    def __init__(
        self,
        directory: Path,
        resumed_at: int,
        *,
        project: str | None = None,
        resolved: Mapping[str, JSON] | None = None,
        quiet: bool = False,
    ):
        self._quiet = quiet
        if quiet:
            return

        self.path = directory / RECORDS
        records = [(_step(line), line) for line in self.path.read_text().splitlines()] if self.path.exists() else []
        self._wandb: WandbRun | None = None
        if project is not None:
            # Before the file is cut: what a killed run wrote last was sent as well, and cannot be taken back there.
            self._wandb = WandbRun(project, directory, resolved or {}, _last_steps(text for _, text in records))
        if records:
            write_atomically(self.path, "".join(text + "\n" for step, text in records if step <= resumed_at))
        self._file = self.path.open("a", buffering=1)
        self._events = Charts(directory / "tensorboard", resumed_at + 1)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Add one record; `kind` is train, validation, watch or speed."""
        if self._quiet:
            return
        self._file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        self._chart(step, kind, values)

    def write_speed(self, step: int, values: Mapping[str, float]) -> None:
        """Rates of the last steps, for the charts only: they depend on the machine."""
        if not self._quiet:
            self._chart(step, "speed", values)

    def records(self, kind: str) -> list[Mapping[str, JSON]]:
        """What was written of this kind so far, by earlier starts as well, in order; nothing where `quiet`."""
        lines = [] if self._quiet else [json.loads(line) for line in self.path.read_text().splitlines()]
        return [record for record in lines if record["kind"] == kind]

    def _chart(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._events.add(f"{kind}/{name}", value, step)
        if self._wandb is not None:
            self._wandb.write(step, kind, values)

    def close(self, failed: bool = False) -> None:
        """Flush and close; `failed` marks the run as such where others see it."""
        if self._quiet:
            return
        try:
            self._file.close()
            self._events.close()
        finally:
            if self._wandb is not None:
                self._wandb.close(failed)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # a line cut short by a kill


def _last_steps(lines: Iterable[str]) -> dict[str, int]:
    """The last step of every kind of record."""
    last: dict[str, int] = {}
    for text in lines:
        if np.isfinite(_step(text)):
            record = json.loads(text)
            last[record["kind"]] = max(last.get(record["kind"], 0), record["step"])
    return last
