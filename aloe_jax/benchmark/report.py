"""What an evaluation leaves behind: report.html, metrics.json, transcripts.jsonl and the resolved config."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from aloe_jax import __version__, config
from aloe_jax.benchmark.chart import Line, alignment_chart, line_class
from aloe_jax.benchmark.dialogue import Dialogue
from aloe_jax.benchmark.judge import Verdict
from aloe_jax.benchmark.metrics import AlignmentMetrics, Estimate


@dataclass(frozen=True)
class Result:
    """All that is known of one candidate. `reference` marks the scripted lower and upper lines."""

    name: str
    reference: bool
    dialogues: list[Dialogue]
    verdicts: list[list[Verdict]]
    metrics: AlignmentMetrics


@dataclass(frozen=True)
class Difference:
    """Average AL of `second` minus that of `first`, paired over the cases."""

    first: str
    second: str
    average: Estimate


def write_report(
    output: str | Path,
    settings: config.Evaluate,
    results: Sequence[Result],
    differences: Sequence[Difference],
) -> None:
    """Write the four files into `output`, each under a temporary name first. Raises OSError if it cannot."""
    directory = Path(output)
    directory.mkdir(parents=True, exist_ok=True)
    texts = {
        "config.yaml": config.dump(settings),
        "transcripts.jsonl": "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in transcripts(results)),
        "metrics.json": json.dumps(summary(settings, results, differences), indent=1, allow_nan=False) + "\n",
        "report.html": render(settings, results, differences),
    }
    for name, text in texts.items():
        partial = directory / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, directory / name)


def simulated_parts(settings: config.Evaluate) -> list[str]:
    """The parts of this evaluation that the scripted simulation plays, in words."""
    parts = []
    if settings.roles.user.provider == "scripted":
        parts.append("the users")
    if settings.roles.judge.provider == "scripted":
        parts.append("the judge")
    references = any(candidate.scripted for candidate in settings.models.values())
    if references and settings.roles.responder.provider == "scripted":
        parts.append("the reference lines")
    return parts


def summary(settings: config.Evaluate, results: Sequence[Result], differences: Sequence[Difference]) -> dict[str, Any]:
    """All numbers, the settings they were made with and who played the roles, as JSON values."""
    return {
        "aloe_jax": __version__,
        "providers": {role: getattr(settings.roles, role).provider for role in ("user", "responder", "judge")},
        "simulated": simulated_parts(settings),
        "models": {
            result.name: {
                "reference": result.reference,
                **result.metrics.to_dict(),
                "stopped": {d.persona.id: d.stopped for d in result.dialogues if d.stopped},
            }
            for result in results
        },
        "differences": [asdict(difference) for difference in differences],
        "settings": settings.model_dump(),
    }


def transcripts(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    """One JSON value for each dialogue, model by model."""
    for result in results:
        for dialogue, verdicts in zip(result.dialogues, result.verdicts, strict=True):
            yield {
                "model": result.name,
                "persona": dialogue.persona.model_dump(),
                "turns": [
                    {"user": exchange.user, "reply": exchange.reply.text, **asdict(verdict)}
                    for exchange, verdict in zip(dialogue.exchanges, verdicts, strict=True)
                ],
            }


def render(settings: config.Evaluate, results: Sequence[Result], differences: Sequence[Difference]) -> str:
    """The page: one HTML file without outside assets, readable offline and on paper."""
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
        differences=differences,
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
                {"user": exchange.user, "reply": exchange.reply.text, **asdict(verdict)}
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


def table(settings: config.Evaluate, results: Sequence[Result], differences: Sequence[Difference]) -> Table:
    """The summary for a terminal of 80 columns."""
    notes = ["* reference line"] if any(result.reference for result in results) else []
    if simulated := _listed(simulated_parts(settings)):
        notes.append(f"simulated: {simulated}")
    notes += [
        f"{d.first} → {d.second}: {_signed(d.average.value)} ({_signed(d.average.low)} to {_signed(d.average.high)})"
        for d in differences
    ]
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
            Text(result.name + (" *" if result.reference else "")),
            *(_number(e.value, n) + _below(e, n) for e, n in estimates),
            _percent(metrics.coverage),
        )
    return grid
