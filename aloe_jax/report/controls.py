"""What the controls of a model say of it: how much of its rise comes from history, and how far it is from knowing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aloe_jax.benchmark.number_text import DIGITS, NAMES, interval, number, p_equation, signed
from aloe_jax.benchmark.results import Statistic, StoredDifference
from aloe_jax.report.differences import significant
from aloe_jax.report.gathering import Entry, Report


@dataclass(frozen=True)
class ControlReading:
    """A model under test beside one of its controls; differences are of the one that sees more."""

    model: Entry
    control: Entry
    by: Mapping[Statistic, StoredDifference]

    @property
    def statistic(self) -> Statistic:
        """What the control is for: the rise over the turns, or the height that knowing the person would reach."""
        return "ir" if self._without_history else "average"

    @property
    def _without_history(self) -> bool:
        return self.control.numbers.sees == "last_message"

    def line(self) -> str:
        """For a terminal: the difference that the control is for."""
        about = "over its last message only" if self._without_history else "that knowing the persona would add"
        return f"{self.model.label}: {NAMES[self.statistic]} {about} {self._difference()}"

    def sentence(self) -> str:
        """What the control is for, with both values, their difference and what the test says of it."""
        own, other = (getattr(one.numbers, self.statistic).value for one in (self.model, self.control))
        digits = DIGITS[self.statistic]
        if self._without_history:
            values = (
                f"AL changes by {signed(own, digits)} a turn, and by {signed(other, digits)} where it sees the last "
                "message only"
            )
        else:
            values = f"average AL is {number(own, digits)}, and {number(other, digits)} with the persona in its prompt"
        if self.by[self.statistic].value is None:
            return f"{values}: their difference is not defined."
        return f"{values}: a difference of {self._difference()}. {self._verdict()}"

    def _difference(self) -> str:
        found = self.by[self.statistic]
        digits = DIGITS[self.statistic]
        if found.value is None:
            return "is not defined"
        ends = interval(found.low, found.high, digits, sign=True)
        return f"{signed(found.value, digits)} ({f'{ends}, ' if ends else ''}{p_equation(found.p_holm)})"

    def _verdict(self) -> str:
        found = self.by[self.statistic]
        clear, more = significant(found), (found.value or 0.0) > 0
        if self.statistic == "ir":
            return self._history_verdict(clear, more)
        if not clear:
            return "The test does not show a distance from knowing the person."
        return (
            "So much would knowing the person add."
            if more
            else "The persona in its prompt does not serve this model: this control is no upper reference for it."
        )

    def _history_verdict(self, clear: bool, more: bool) -> str:
        own, other = ((one.numbers.ir.value or 0.0) for one in (self.model, self.control))
        if own <= 0:
            if not clear:
                return "AL does not rise, and the test does not show that the history changes how it moves."
            if more:
                return "AL does not rise with the history, but falls more without it."
            return (
                "AL rises without the history only." if other > 0 else "AL falls more with the history than without it."
            )
        if not clear:
            return "The test does not show that the rise comes from the history."
        if more:
            return (
                "So much of the rise is lost without the history." if other > 0 else "AL rises with the history only."
            )
        return "AL rises less with the history than without it."


def tests_with_controls(report: Report) -> dict[str, int]:
    """By run, how many tests with controls were made and corrected together; what is undefined was not tested."""
    return {
        run.name: count
        for run in report.judged
        if run.results is not None and (count := sum(one.p is not None for one in run.results.controls))
    }


def control_readings(report: Report) -> list[ControlReading]:
    """Of all runs, in the order in which they stored them."""
    found: dict[tuple[str, str, str], dict[Statistic, StoredDifference]] = {}
    for run in report.judged:
        for difference in run.results.controls if run.results is not None else ():
            found.setdefault((run.name, difference.first, difference.second), {})[difference.statistic] = difference
    entries = {(entry.run, entry.model): entry for entry in report.entries}
    readings = []
    for (name, first, second), by in found.items():
        one, other = entries[name, first], entries[name, second]
        model, control = (one, other) if one.numbers.under_test else (other, one)
        readings.append(ControlReading(model, control, by))
    return readings
