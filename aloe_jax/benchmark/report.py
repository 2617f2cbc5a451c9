"""What an evaluation shows: report.html, and the summary for a terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from aloe_jax import __version__, config
from aloe_jax.benchmark.chart import Line, alignment_chart, line_class
from aloe_jax.benchmark.comparison import Difference
from aloe_jax.benchmark.dialogue import Dialogue
from aloe_jax.benchmark.judge import Verdict
from aloe_jax.benchmark.metrics import AlignmentMetrics, Estimate
from aloe_jax.benchmark.results import replace_file
from aloe_jax.benchmark.scoring import Scored, Talked, simulated_parts


@dataclass(frozen=True)
class Result:
    """All that is known of one candidate. `reference` marks the scripted lower and upper lines."""

    name: str
    reference: bool
    dialogues: list[Dialogue]
    verdicts: list[list[Verdict]]
    metrics: AlignmentMetrics
    complete: bool


def write_report(settings: config.Evaluate, scored: Scored, talked: Sequence[Talked]) -> None:
    """Write report.html and config.yaml into the output directory. Raises OSError if it cannot."""
    directory = Path(settings.output)
    directory.mkdir(parents=True, exist_ok=True)
    replace_file(directory / "config.yaml", config.dump(settings))
    replace_file(directory / "report.html", render(settings, scored, talked))


def _results(scored: Scored, talked: Sequence[Talked]) -> list[Result]:
    models = scored.results.models
    return [
        Result(
            one.name,
            models[one.name].reference,
            one.dialogues,
            one.verdicts,
            scored.metrics[one.name],
            models[one.name].complete,
        )
        for one in talked
    ]


def _shown_differences(scored: Scored) -> list[Difference]:
    """Of the average, between models that follow each other."""
    tested = [name for name, model in scored.results.models.items() if not model.reference]
    following = list(pairwise(tested))
    return [d for d in scored.differences if d.statistic == "average" and (d.first, d.second) in following]


def render(settings: config.Evaluate, scored: Scored, talked: Sequence[Talked]) -> str:
    """The page: one HTML file without outside assets, readable offline and on paper."""
    results = _results(scored, talked)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("aloe_jax", "benchmark"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, signed=_signed, percent=_percent)
    lines = _lines(results)
    kinds = {line.name: line_class(line.reference, line.index) for line in lines}
    models = [result for result in results if not result.reference]
    return environment.get_template("report.html").render(
        chart=Markup(alignment_chart(lines)),
        data=_embedded(_page_data(results, kinds)),
        results=results,
        kinds=kinds,
        best=max(models, key=lambda result: _rank(result.metrics.average.value), default=None),
        differences=_shown_differences(scored),
        simulated=_listed(simulated_parts(settings)),
        settings=settings,
        settings_text=config.dump(settings),
        version=__version__,
    )


def _lines(results: Sequence[Result]) -> list[Line]:
    lines, models = [], 0
    for result in results:
        metrics = result.metrics
        lines.append(Line(result.name, metrics.al, metrics.al_low, metrics.al_high, result.reference, models))
        models += not result.reference
    return lines


def _page_data(results: Sequence[Result], kinds: dict[str, str]) -> dict[str, Any]:
    """What the page's script shows: the curves, and every case with a column for each candidate."""
    columns = []
    for result in results:
        numbers = result.metrics.to_dict()
        columns.append(
            {
                "name": result.name,
                "kind": kinds[result.name],
                "reference": result.reference,
                "al": numbers["al"],
                "low": numbers["al_low"],
                "high": numbers["al_high"],
            }
        )
    cases = []
    for case, dialogue in enumerate(results[0].dialogues):
        rows = [
            [
                {
                    "user": exchange.user,
                    "reply": exchange.reply.text,
                    "rating": verdict.rating,
                    "reason": verdict.reason,
                }
                for exchange, verdict in zip(r.dialogues[case].exchanges, r.verdicts[case], strict=True)
            ]
            for r in results
        ]
        cases.append({"persona": dialogue.persona.model_dump(), "columns": rows})
    return {"candidates": columns, "cases": cases}


def _embedded(value: Any) -> Markup:
    """JSON that may stand in a script element whatever the texts hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _rank(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _below(estimate: Estimate, digits: int) -> str:
    if math.isnan(estimate.low):
        return ""
    return f"\n[dim]{_number(estimate.low, digits)}…{_number(estimate.high, digits)}[/dim]"


_MINUS, _UNDEFINED = "\N{MINUS SIGN}", "\N{EN DASH}"


def _number(value: float, digits: int = 2) -> str:
    return _UNDEFINED if math.isnan(value) else f"{value:.{digits}f}".replace("-", _MINUS)


def _signed(value: float, digits: int = 2) -> str:
    return _UNDEFINED if math.isnan(value) else f"{value:+.{digits}f}".replace("-", _MINUS)


def _percent(value: float) -> str:
    # Never round up to "100%" what is not complete.
    return "100%" if value == 1 else f"{math.floor(1000 * value) / 10:g}%"


def table(settings: config.Evaluate, scored: Scored, talked: Sequence[Talked]) -> Table:
    """The summary for a terminal of 80 columns."""
    results = _results(scored, talked)
    notes = ["* reference line"] if any(result.reference for result in results) else []
    if simulated := _listed(simulated_parts(settings)):
        notes.append(f"simulated: {simulated}")
    notes += [
        f"{d.first} → {d.second}: {_signed(d.value)} ({_signed(d.low)} to {_signed(d.high)})"
        for d in _shown_differences(scored)
    ]
    if not scored.results.complete:
        notes.insert(0, "† incomplete: replies or ratings are missing")
    grid = Table(
        title=f"ALOE benchmark: {settings.cases} cases, {settings.turns} turns, 95% intervals",
        caption="\n".join(notes) or None,
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    grid.add_column("model")
    for column in ("average", "IR", "N-IR", "R²", "coverage"):
        grid.add_column(column, justify="right", no_wrap=True)
    for result in results:
        metrics = result.metrics
        estimates = [(metrics.average, 2), (metrics.ir, 3), (metrics.n_ir, 3), (metrics.r2, 2)]
        grid.add_row(
            Text(result.name + (" *" if result.reference else "") + ("" if result.complete else " †")),
            *(_number(e.value, n) + _below(e, n) for e, n in estimates),
            _percent(metrics.coverage),
        )
    return grid
