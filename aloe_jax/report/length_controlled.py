"""Length-controlled AL of the models of every run, beside AL: see `aloe_jax.benchmark.length_control`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from aloe_jax.benchmark.length_control import LengthControl, control_length, lengths_of
from aloe_jax.benchmark.number_text import number, signed
from aloe_jax.benchmark.results import Number
from aloe_jax.report.gathering import Entry, Report


@dataclass(frozen=True)
class LengthControlledRun:
    """One run: the slope of rating on length with the models under test by label, and their differences."""

    run: str
    control: LengthControl
    differences: tuple[LengthDifference, ...]


@dataclass(frozen=True)
class LengthDifference:
    """What `second` has more than `first` in average AL, as rated and length-controlled."""

    first: str
    second: str
    rated: Number
    controlled: Number


def length_controlled_runs(report: Report) -> list[LengthControlledRun]:
    """Every run that has models under test, all of which share a slope: the same judges rated them."""
    found = []
    for run in report.judged:
        entries = [entry for entry in report.models if entry.run == run.name]
        if not entries:
            continue
        control = control_length(
            {entry.label: lengths_of([*entry.cases.values()], entry.numbers.turns) for entry in entries}
        )
        pairs = [_difference(control, *pair) for pair in combinations(entries, 2)]
        found.append(LengthControlledRun(run.name, control, tuple(pairs)))
    return found


def length_note(report: Report) -> list[str]:
    """One line with the models' length-controlled AL, and what twice the words add to a rating; none without models."""
    lines = []
    for one in length_controlled_runs(report):
        shown = [(label, it.average.value) for label, it in one.control.models.items() if it.average.value is not None]
        if not shown:
            continue
        of = f" in {one.run}" if len(report.judged) > 1 else ""
        doubling = one.control.per_doubling().value
        values = ", ".join(f"{label} {number(value)}" for label, value in shown)
        lines.append(
            f"Length-controlled average AL{of}: {values}; twice the words add {signed(doubling)} to a rating "
            "(regression within dialogues; not tested)"
        )
    return lines


def _difference(control: LengthControl, first: Entry, second: Entry) -> LengthDifference:
    rated = _less(second.numbers.average.value, first.numbers.average.value)
    ends = (control.models[entry.label].average.value for entry in (second, first))
    return LengthDifference(first.label, second.label, rated, _less(*ends))


def _less(value: Number, other: Number) -> Number:
    return None if value is None or other is None else value - other
