"""The summary of a run for a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from aloe_jax.benchmark.number_text import DIGITS, counted, interval, number, p_equation, percent, signed
from aloe_jax.benchmark.results import StoredEstimate
from aloe_jax.faults import one_line
from aloe_jax.report.controls import control_readings
from aloe_jax.report.defects import defect_shares, warnings
from aloe_jax.report.differences import ModelPair, significant
from aloe_jax.report.gathering import Report
from aloe_jax.report.recipes import conditional_note, runs_text
from aloe_jax.report.sides import side_line
from aloe_jax.report.tables import COLUMNS, assertions
from aloe_jax.terminal import plain


def table(report: Report) -> Table:
    """The models of all runs, for a terminal of 80 columns."""
    notes = []
    if not report.complete:
        notes.append("† incomplete: replies or ratings are missing")
    if any(entry.numbers.reference for entry in report.entries):
        notes.append("* reference line")
    notes += [f"* {entry.label}: {entry.role_label}" for entry in report.entries if entry.numbers.sees != "history"]
    if report.simulated:
        notes.append(f"simulated: {report.simulated}")
    if assertions(report):
        notes.append("untrue: share of the replies that assert a fact of somebody else, which AL does not show")
    notes += [*defect_shares(report), *(f"warning: {line}" for line in warnings(report))]
    notes += recipe_lines(report)
    if report.single_runs:
        notes.append(conditional_note(report.single_runs))
    if not report.recipes:  # of several runs of a recipe every two would differ
        notes += [line for pair in report.pairs if (line := difference(pair))]
    notes += [side_line(side, report) for side in report.sides]
    notes += [reading.line() for reading in control_readings(report)]
    people = counted(len(report.personas), "person", "people")
    grid = Table(
        title=f"ALOE benchmark: {people}, {counted(report.turns, 'turn')}, 95% intervals",
        caption=Text("\n".join(map(one_line, notes))) if notes else None,
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    grid.add_column("model", overflow="fold")
    untrue = assertions(report)
    for column in ("average", "IR", "N-IR", "R²", "coverage" + ("\nuntrue" if untrue else "")):
        grid.add_column(column, justify="right", no_wrap=True)
    for entry in report.entries:
        numbers = entry.numbers
        grid.add_row(
            plain(entry.label + (" *" if entry.role_label else "") + ("" if numbers.complete else " †")),
            *(_estimate(getattr(numbers, name), DIGITS[name]) for name in COLUMNS),
            percent(numbers.coverage) + (f"\n{untrue[entry.label]}" if untrue else ""),
        )
    return grid


def difference(pair: ModelPair) -> str:
    """The difference of two models' averages in a line; nothing where it is undefined."""
    found = pair.by.get("average")
    if found is None or found.value is None:
        return ""
    ends = interval(found.low, found.high, sign=True)
    test = f", {p_equation(found.p_holm)}" + ("" if significant(found) else ", not significant")
    return f"{pair.first} → {pair.second}: {signed(found.value)}" + (f" ({ends})" if ends else "") + test


def recipe_lines(report: Report) -> list[str]:
    """The averages of recipes over their training runs, and how they differ, one a line; then what to know of them."""
    lines = []
    for one in report.recipes.results:
        if (found := one.by.get("average")) is not None:
            ends = interval(found.low, found.high)
            lines.append(f"{one.name}, {runs_text(one)}: {number(found.value)} ({ends}), SD {number(found.spread)}")
    for pair in report.recipes.pairs:
        if (found := pair.by.get("average")) is not None:
            test = p_equation(pair.p_holm["average"]) + ("" if pair.strong("average") else ", not significant")
            ends = interval(found.low, found.high, sign=True)
            lines.append(f"recipe {pair.first} → {pair.second}: {signed(found.value)} ({ends}), {test}")
    return lines + report.recipes.notes()


def _estimate(estimate: StoredEstimate, digits: int) -> Text:
    value, low, high = (number(one, digits) for one in (estimate.value, estimate.low, estimate.high))
    if estimate.low is None:
        return Text(value)
    return Text.assemble(value, "\n", (f"{low}…{high}", "dim"))
