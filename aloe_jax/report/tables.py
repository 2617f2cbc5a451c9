"""Tables to paste: Markdown for a README, LaTeX (booktabs) for a paper.

A number is followed by how far its 95% interval reaches, `±` where that is the same on both sides. Bold is the best
model of a column only where the corrected paired test puts it above every other model; N-IR and R² are not tested.
"""

from __future__ import annotations

from itertools import zip_longest

from aloe_jax.benchmark.number_text import (
    DIGITS,
    MINUS,
    NAMES,
    UNDEFINED,
    interval,
    listed,
    p_equation,
    percent,
    signed,
)
from aloe_jax.benchmark.number_text import number as written
from aloe_jax.benchmark.number_text import spread as reach
from aloe_jax.benchmark.recipes import RecipeEstimate
from aloe_jax.benchmark.results import STATISTICS, Statistic, StoredEstimate
from aloe_jax.report.defects import defect_shares, shares, warnings
from aloe_jax.report.differences import ModelPair, significant
from aloe_jax.report.gathering import Entry, Report
from aloe_jax.report.interval_notes import (
    describe_bounds,
    describe_intervals,
    describe_side_tests,
    describe_tests,
    fixed_parts_note,
    paired_over,
    without_interval,
)
from aloe_jax.report.length_controlled import length_note
from aloe_jax.report.recipes import RecipePair, Recipes, conditional_note, runs_text
from aloe_jax.report.sides import HEAD, side_line, side_row

COLUMNS = ("average", "ir", "n_ir", "r2")
TESTED = ("average", "ir")
_NOTE = "\N{DAGGER}"
COMPARABLE = (
    "AL is in the units of its judge: values are comparable between models that the same judge rated, with the same "
    "prompt, and with no others."
)


def assertions(report: Report) -> dict[str, str]:
    """By label of an entry, the share of replies that assert a fact of somebody else; empty where none is known."""
    shares = {entry.label: entry.numbers.automatic.untrue for entry in report.entries}
    return (
        {label: percent(share) for label, share in shares.items()}
        if any(s is not None for s in shares.values())
        else {}
    )


def markdown(report: Report) -> str:
    """The models' table, that of their differences where there are two models, and what has to be said with them."""
    untrue = assertions(report)
    head = [
        "Model",
        *(["Run"] if _several(report) else []),
        "Cases",
        *(NAMES[name] for name in COLUMNS),
        *(["Untrue assertions"] if untrue else []),
        "Coverage",
        "Cut / empty / repeated",
    ]
    rows = [
        [
            _markdown_text(entry.label if not _several(report) else entry.model) + _marks(entry),
            *([_markdown_text(entry.run)] if _several(report) else []),
            str(entry.numbers.cases),
            *(_markdown_cell(report, entry, name) for name in COLUMNS),
            *([untrue[entry.label]] if untrue else []),
            percent(entry.numbers.coverage),
            shares(entry.numbers.replies),
        ]
        for entry in report.entries
    ]
    left = 2 if _several(report) else 1
    parts = [_markdown_table(head, rows, left)]
    if report.pairs:
        head = ["Models", *(NAMES[name] for name in ("average", "ir", "final"))]
        parts.append(_markdown_table(head, [_markdown_pair(pair) for pair in report.pairs], 1))
    if report.sides:
        rows = [[_markdown_text(cell) for cell in side_row(side, report)] for side in report.sides]
        parts.append(_markdown_table(list(HEAD), rows, 1))
    if report.recipes:
        parts += _markdown_recipes(report.recipes)
    said = notes(report)
    if report.pairs:
        said.insert(
            1,
            f"Differences: of the second model; bold where p < 0.05 after correction, {paired_over(report)}.",
        )
    if report.sides:
        said.append(
            f"Side by side: a tie counts half; p by {describe_side_tests(report)}, corrected with all other tests."
        )
    said += report.recipes.notes()
    parts.append("\n".join(f"- {_markdown_text(note)}" for note in said))
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(report: Report) -> str:
    """A table environment that needs the packages booktabs and threeparttable, with its notes below it.

    Where there are recipes with several training runs, a second one has them and their differences.
    """
    several = _several(report)
    untrue = assertions(report)
    head = ["Model", *(["Run"] if several else []), "Cases", "Average AL", "IR", "N-IR", "$R^2$"]
    head += ["Untrue", "Coverage"] if untrue else ["Coverage"]
    lines = [
        r"% \usepackage{booktabs,threeparttable}",
        r"\begin{table}",
        r"\centering",
        r"\begin{threeparttable}",
        r"\caption{Alignment with individual preferences on the ALOE benchmark.}",
        r"\label{tab:aloe}",
        rf"\begin{{tabular}}{{l{'l' if several else ''}{'r' * (len(COLUMNS) + 2 + bool(untrue))}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
    ]
    for entry in sorted(report.entries, key=lambda entry: not entry.numbers.under_test):
        if entry.role_label and report.models and lines[-1] != r"\midrule" and r"\textit" not in lines[-1]:
            lines.append(r"\midrule")
        name = _latex_text(entry.model if several else entry.label)
        marks = r"\tnote{\textdagger}" if not entry.numbers.complete else ""
        cells = [
            (rf"\textit{{{name}}}" if entry.role_label else name) + marks,
            *([_latex_text(entry.run)] if several else []),
            str(entry.numbers.cases),
            *(_latex_cell(report, entry, column) for column in COLUMNS),
            *([untrue[entry.label].replace("%", r"\%").replace("\N{EN DASH}", "--")] if untrue else []),
            percent(entry.numbers.coverage).replace("%", r"\%"),
        ]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\begin{tablenotes}\footnotesize"]
    beside = [*defect_shares(report), *(side_line(side, report) for side in report.sides)]
    shown = [f"{line[0].upper()}{line[1:]}." for line in beside]  # columns and rows of their own in Markdown
    lines += [rf"\item {_latex_text(note)}" for note in [*notes(report), *shown]]
    lines += [r"\end{tablenotes}", r"\end{threeparttable}", r"\end{table}"]
    if report.recipes:
        lines += ["", *_latex_recipes(report)]
    return "\n".join(lines) + "\n"


def notes(report: Report) -> list[str]:
    """What has to stand with the models' numbers wherever they go."""
    found = describe_intervals(report)
    said = [
        f"Intervals: {f'95%, {found}' if found else 'none, of a single person'}. {fixed_parts_note(report)}".strip()
    ]
    said.append(COMPARABLE)
    if assertions(report):
        said.append("Untrue assertions: replies that state a fact of somebody else.")
    if report.pairs:
        said.append(
            f"Bold: the best model of a column, where {describe_tests(report)}, puts it above every other model "
            "(p < 0.05). N-IR and R² are not tested."
        )
    if bare := without_interval(report):
        said.append(bare)
    if any(entry.numbers.reference for entry in report.entries):
        references = [entry.label for entry in report.entries if entry.numbers.reference]
        said.append(f"Reference lines, not under test: {listed(references)}.")
    if controls := [
        f"{entry.label} ({entry.role_label})" for entry in report.entries if entry.numbers.sees != "history"
    ]:
        said.append(f"Controls, not under test: {listed(controls)}.")
    if report.single_runs:
        said.append(conditional_note(report.single_runs))
    if gaps := [entry.label for entry in report.entries if not entry.numbers.complete]:
        said.append(f"{_NOTE} Incomplete, replies or ratings are missing: {listed(gaps)}.")
        said += [f"{entry.label}, {bounds}." for entry in report.entries if (bounds := describe_bounds(entry.numbers))]
    said += [f"{line}." for line in length_note(report)]
    said += [f"Warning: {line}." for line in warnings(report)]
    return said + _simulated(report)


def _simulated(report: Report) -> list[str]:
    if not report.simulated:
        return []
    return [f"Simulated by a script: {report.simulated}. These numbers say nothing about people or real conversations."]


def _markdown_recipes(recipes: Recipes) -> list[str]:
    """The table of recipes, and that of their differences where there are two."""
    head = ["Recipe", "Training runs", *(f"{NAMES[name]}, SD over runs" for name in STATISTICS)]
    rows = [
        [_markdown_text(one.name), runs_text(one), *(_recipe_estimate(one.by.get(name), name) for name in STATISTICS)]
        for one in recipes.results
    ]
    parts = [_markdown_table(head, rows, 2)]
    if recipes.pairs:
        head = ["Recipes", *(NAMES[name] for name in STATISTICS)]
        parts.append(_markdown_table(head, [_markdown_recipe_pair(pair) for pair in recipes.pairs], 1))
    return parts


def _latex_recipes(report: Report) -> list[str]:
    """A table environment: recipes, then their differences."""
    recipes = report.recipes
    names = ("Average AL", "IR", "AL at the last turn")
    lines = [
        r"\begin{table}",
        r"\centering",
        r"\begin{threeparttable}",
        r"\caption{The same by recipe, over training runs.}",
        r"\label{tab:aloe-recipes}",
        r"\begin{tabular}{llrrr}",
        r"\toprule",
        " & ".join(["Recipe", "Training runs", *names]) + r" \\",
        r"\midrule",
    ]
    for one in recipes.results:
        cells = [_latex_text(_recipe_estimate(one.by.get(name), name)) for name in STATISTICS]
        lines.append(" & ".join([_latex_text(one.name), _latex_text(runs_text(one)), *cells]) + r" \\")
    if recipes.pairs:
        lines.append(r"\midrule")
    for pair in recipes.pairs:
        cells = [_latex_text(_recipe_difference(pair, name)) for name in STATISTICS]
        bold = [
            rf"\textbf{{{cell}}}" if pair.strong(name) else cell for name, cell in zip(STATISTICS, cells, strict=True)
        ]
        of = "by seed" if pair.paired else "other seeds"
        lines.append(" & ".join([_latex_text(f"{pair.first} → {pair.second}"), of, *bold]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\begin{tablenotes}\footnotesize"]
    lines += [rf"\item {_latex_text(note)}" for note in [*recipes.notes(), "Bold: p < 0.05.", *_simulated(report)]]
    return [*lines, r"\end{tablenotes}", r"\end{threeparttable}", r"\end{table}"]


def _recipe_estimate(found: RecipeEstimate | None, name: Statistic) -> str:
    if found is None:
        return written(None)
    ends = interval(found.low, found.high, DIGITS[name])
    return f"{written(found.value, DIGITS[name])} ({ends}), SD {written(found.spread, DIGITS[name])}"


def _markdown_recipe_pair(pair: RecipePair) -> list[str]:
    cells = []
    for name in STATISTICS:
        value, _, rest = _recipe_difference(pair, name).partition(" ")
        cells.append(f"**{value}** {rest}" if pair.strong(name) else f"{value} {rest}".rstrip())
    return [_markdown_text(f"{pair.first} → {pair.second}"), *cells]


def _recipe_difference(pair: RecipePair, name: Statistic) -> str:
    """Such as "+0.74 (+0.51 to +0.97), p = 0.002"."""
    if (found := pair.by.get(name)) is None:
        return written(None)
    ends = interval(found.low, found.high, DIGITS[name], sign=True)
    return f"{signed(found.value, DIGITS[name])} ({ends}), {p_equation(pair.p_holm[name])}"


def _several(report: Report) -> bool:
    return len(report.judged) > 1


def _marks(entry: Entry) -> str:
    return (f" ({entry.role_label})" if entry.role_label else "") + ("" if entry.numbers.complete else f" {_NOTE}")


def _bold(report: Report, entry: Entry, name: str) -> bool:
    return name in TESTED and report.stands_out(entry, name)


def _markdown_cell(report: Report, entry: Entry, name: str) -> str:
    estimate: StoredEstimate = getattr(entry.numbers, name)
    text = written(estimate.value, DIGITS[name])
    if _bold(report, entry, name):
        text = f"**{text}**"
    ends = reach(estimate, DIGITS[name])
    if ends is None:
        return text
    below, above = ends
    return f"{text} ± {above}" if below == above else f"{text} +{above} {MINUS}{below}"


def _markdown_pair(pair: ModelPair) -> list[str]:
    cells = []
    for name in ("average", "ir", "final"):
        found = pair.by.get(name)
        if found is None:
            cells.append(written(None))
            continue
        text = signed(found.value, DIGITS[name])
        text = f"**{text}**" if significant(found) else text
        ends = interval(found.low, found.high, DIGITS[name], sign=True)
        cells.append(f"{text} ({ends}), {p_equation(found.p_holm)}" if ends else text)
    return [_markdown_text(f"{pair.first} → {pair.second}"), *cells]


def _markdown_table(head: list[str], rows: list[list[str]], left: int) -> str:
    """Columns as wide as their longest cell; the first `left` are flush left."""
    widths = [max(map(len, column)) for column in zip_longest(head, *rows, fillvalue="")]
    flush = [str.ljust] * left + [str.rjust] * (len(widths) - left)
    rule = ["-" * width if at < left else "-" * (width - 1) + ":" for at, width in enumerate(widths)]
    return "\n".join(
        f"| {' | '.join(fit(cell, width) for fit, cell, width in zip(flush, cells, widths, strict=True))} |"
        for cells in (head, rule, *rows)
    )


def _markdown_text(text: str) -> str:
    """Safe in a cell: no markup, no column or line of its own."""
    escaped = "".join(
        f"\\{c}" if c in "\\`*_[]|~#$" else {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(c, c) for c in text
    )
    return " ".join(escaped.split())


def _latex_cell(report: Report, entry: Entry, name: str) -> str:
    estimate: StoredEstimate = getattr(entry.numbers, name)
    if estimate.value is None:
        return "--"
    value = written(estimate.value, DIGITS[name]).replace(MINUS, "-")
    value = rf"\mathbf{{{value}}}" if _bold(report, entry, name) else value
    ends = reach(estimate, DIGITS[name])
    if ends is None:
        return f"${value}$"
    below, above = ends
    return rf"${value} \pm {above}$" if below == above else rf"${value}^{{+{above}}}_{{-{below}}}$"


_LATEX = {
    **{c: f"\\{c}" for c in "#$%&_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    _NOTE: r"\textdagger{}",
    "²": r"\textsuperscript{2}",
    MINUS: r"$-$",
    UNDEFINED: "--",
    "→": r"$\rightarrow$",
}


def _latex_text(text: str) -> str:
    return " ".join("".join(_LATEX.get(c, c) for c in text).split())
