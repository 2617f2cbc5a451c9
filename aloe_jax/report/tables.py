"""Tables to paste: Markdown for a README, LaTeX (booktabs) for a paper.

A number is followed by how far its 95% interval reaches, `±` where that is the same on both sides. Bold is the best
model of a column only where the corrected paired test puts it above every other model; N-IR and R² are not tested.
"""

from __future__ import annotations

from itertools import zip_longest

from aloe_jax.benchmark.number_text import DIGITS, MINUS, NAMES, interval, listed, p_value, percent, signed
from aloe_jax.benchmark.number_text import number as written
from aloe_jax.benchmark.number_text import spread as reach
from aloe_jax.benchmark.results import StoredEstimate
from aloe_jax.report.differences import ModelPair, significant
from aloe_jax.report.gathering import Entry, Report
from aloe_jax.report.inference import bounds_said, holds_for, intervals_said, tests_said, without_interval

COLUMNS = ("average", "ir", "n_ir", "r2")
TESTED = ("average", "ir")
_NOTE = "\N{DAGGER}"


def markdown(report: Report) -> str:
    """The models' table, that of their differences where there are two models, and what has to be said with them."""
    head = ["Model", *(["Run"] if _several(report) else []), "Cases", *(NAMES[name] for name in COLUMNS), "Coverage"]
    rows = [
        [
            _markdown_text(entry.label if not _several(report) else entry.model) + _marks(entry),
            *([_markdown_text(entry.run)] if _several(report) else []),
            str(entry.numbers.cases),
            *(_markdown_cell(report, entry, name) for name in COLUMNS),
            percent(entry.numbers.coverage),
        ]
        for entry in report.entries
    ]
    left = 2 if _several(report) else 1
    parts = [_markdown_table(head, rows, left)]
    if report.pairs:
        head = ["Models", *(NAMES[name] for name in ("average", "ir", "final"))]
        parts.append(_markdown_table(head, [_markdown_pair(pair) for pair in report.pairs], 1))
    said = notes(report)
    if report.pairs:
        said.insert(
            1,
            "Differences: of the second model; bold where p < 0.05 after correction, over the ratings that both have.",
        )
    parts.append("\n".join(f"- {_markdown_text(note)}" for note in said))
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(report: Report) -> str:
    """One table environment that needs the packages booktabs and threeparttable, with its notes below it."""
    several = _several(report)
    head = ["Model", *(["Run"] if several else []), "Cases", "Average AL", "IR", "N-IR", "$R^2$", r"Coverage"]
    lines = [
        r"% \usepackage{booktabs,threeparttable}",
        r"\begin{table}",
        r"\centering",
        r"\begin{threeparttable}",
        r"\caption{Alignment with individual preferences on the ALOE benchmark.}",
        r"\label{tab:aloe}",
        rf"\begin{{tabular}}{{l{'l' if several else ''}{'r' * (len(COLUMNS) + 2)}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
    ]
    for entry in sorted(report.entries, key=lambda entry: entry.numbers.reference):
        if entry.numbers.reference and report.models and lines[-1] != r"\midrule" and r"\textit" not in lines[-1]:
            lines.append(r"\midrule")
        name = _latex_text(entry.model if several else entry.label)
        marks = r"\tnote{\textdagger}" if not entry.numbers.complete else ""
        cells = [
            (rf"\textit{{{name}}}" if entry.numbers.reference else name) + marks,
            *([_latex_text(entry.run)] if several else []),
            str(entry.numbers.cases),
            *(_latex_cell(report, entry, column) for column in COLUMNS),
            percent(entry.numbers.coverage).replace("%", r"\%"),
        ]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\begin{tablenotes}\footnotesize"]
    lines += [rf"\item {_latex_text(note)}" for note in notes(report)]
    lines += [r"\end{tablenotes}", r"\end{threeparttable}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def notes(report: Report) -> list[str]:
    """What has to stand with the models' numbers wherever they go."""
    said = [f"Intervals: 95%, {intervals_said(report)}. {holds_for(report)}".strip()]
    if len(report.models) > 1:
        said.append(
            f"Bold: the best model of a column, where {tests_said(report)}, puts it above every other model "
            "(p < 0.05). N-IR and R² are not tested."
        )
    if bare := without_interval(report):
        said.append(bare)
    if any(entry.numbers.reference for entry in report.entries):
        references = [entry.label for entry in report.entries if entry.numbers.reference]
        said.append(f"Reference lines, not under test: {listed(references)}.")
    if gaps := [entry.label for entry in report.entries if not entry.numbers.complete]:
        said.append(f"{_NOTE} Incomplete, replies or ratings are missing: {listed(gaps)}.")
        said += [f"{entry.label}, {bounds}." for entry in report.entries if (bounds := bounds_said(entry.numbers))]
    if report.simulated:
        said.append(
            f"Simulated by a script: {report.simulated}. These numbers say nothing about people or real conversations."
        )
    return said


def _several(report: Report) -> bool:
    return len(report.judged) > 1


def _marks(entry: Entry) -> str:
    return (" (reference)" if entry.numbers.reference else "") + ("" if entry.numbers.complete else f" {_NOTE}")


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
        p = p_value(found.p_holm)
        cells.append(f"{text} ({ends}), p {p if p.startswith('<') else f'= {p}'}" if ends else text)
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
    "→": r"$\rightarrow$",
}


def _latex_text(text: str) -> str:
    return " ".join("".join(_LATEX.get(c, c) for c in text).split())
