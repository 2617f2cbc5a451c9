"""The charts of RL: which lines each has, over steps or over turns, and the same as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from aloe_jax.report.gathering import Report
from aloe_jax.report.learning import Curve, Learning
from aloe_jax.report.pictures import Chart, Unit
from aloe_jax.report.svg import Line, Look

TITLES = {
    "learning-heldout": "Mean reward on held-out people by step",
    "learning-turns": "Mean reward by turn, first and last steps",
    "learning-watch": "Training judge and watch by step",
    "learning-equal": "Groups without variance by step",
    "learning-entropy": "Entropy in nats a token by step",
}


def learning_charts(report: Report) -> dict[str, Chart]:
    """By name, in the order of TITLES; none without lines."""
    found = {
        "learning-heldout": _by_step(report, "rating", lambda one: {"": one.curve("validation", "reward")}),
        "learning-turns": _by_turn(report),
        "learning-watch": _by_step(report, "rating", _watched),
        "learning-equal": _by_step(report, "share", lambda one: {"": one.curve("train", "no_variance")}),
        "learning-entropy": _by_step(report, "rating", lambda one: {"": one.curve("train", "entropy")}),
    }
    return {name: chart for name, chart in found.items() if chart.lines}


def _watched(one: Learning) -> dict[str, Curve]:
    """Of a run with another judge both judges; of one with other users what the judge says with either users."""
    if own := one.curve("watch", "judge"):
        return {"training judge": own, "watch judge": one.curve("watch", "watch")}
    watched = one.curve("watch", "watch")
    return {"training's users": one.curve("train", "reward/judge"), "watch's users": watched} if watched else {}


def _by_step(report: Report, unit: Unit, curves: Callable[[Learning], dict[str, Curve]]) -> Chart:
    named = [
        (one.entry, _label(report, one, name), _look(report, one, number > 0), curve)
        for one in report.learning
        for number, (name, curve) in enumerate(curves(one).items())
        if curve
    ]
    steps = sorted({step for *_, curve in named for step, _ in curve})
    return Chart(
        unit,
        [Line(entry, label, look, [dict(curve).get(step) for step in steps]) for entry, label, look, curve in named],
        steps,
    )


def _by_turn(report: Report) -> Chart:
    lines: list[Line] = []
    for one in report.learning:
        for last in (True, False):
            if values := one.by_turn(last):
                name = (
                    f"{'last' if last else 'first'} {one.ends} steps" if one.ends > 1 else "last" if last else "first"
                )
                lines.append(Line(one.entry, _label(report, one, name), _look(report, one, not last), values))
    turns = max((len(line.values) for line in lines), default=0)
    return Chart("rating", [replace(line, values=_padded(line.values, turns)) for line in lines])


def _padded(values: Sequence[float | None], turns: int) -> list[float | None]:
    return [*values, *[None] * (turns - len(values))]


def _label(report: Report, one: Learning, name: str) -> str:
    return ", ".join(part for part in (report.entries[one.entry].label, name) if part)


def _look(report: Report, one: Learning, second: bool) -> Look:
    """The model's; of a second line of it in a chart its colour with another dash and another marker."""
    look = report.entries[one.entry].look
    return replace(look, dash="2 4" if look.dash != "2 4" else "7 3", marker="cross") if second else look
