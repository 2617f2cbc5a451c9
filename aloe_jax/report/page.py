"""Fills the page: one HTML file without outside assets, readable offline, on paper and without a script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import jinja2
from markupsafe import Markup

from aloe_jax import __version__
from aloe_jax.benchmark import number_text
from aloe_jax.benchmark.rating.figures import INTERVALS
from aloe_jax.benchmark.results import CaseGroup, ModelResults, Number, StoredCalibration
from aloe_jax.offline_page import as_script_data, read_assets, source_hash
from aloe_jax.report import defects, interval_notes, payload, pictures, svg, tables
from aloe_jax.report.controls import control_readings, tests_with_controls
from aloe_jax.report.differences import LEVEL, least_p, significant
from aloe_jax.report.gathering import Report, unlike
from aloe_jax.report.learning_charts import TITLES, learning_charts
from aloe_jax.report.length_controlled import length_controlled_runs
from aloe_jax.report.recipes import conditional_note, runs_text
from aloe_jax.storage.files import as_path, make_directory, write_atomically

SCRIPTS = ("values", "charts", "cases", "transcripts", "app")
SHOWN = 3  # reasons for missing replies that are given in full
STYLES = ("style", "charts", "transcripts", "print")


@dataclass(frozen=True)
class Persons:
    """People who share a profile or a personality, with each model's numbers; None where a model met none of them."""

    text: str
    ids: tuple[str, ...]
    by_entry: tuple[CaseGroup | None, ...]


def write_page(report: Report, target: str | Path) -> int:
    """Write the page under a temporary name first; returns its size in bytes. Raises OSError if it cannot."""
    target = as_path(target)
    content = render(report).encode()
    make_directory(target.parent)
    write_atomically(target, content)
    return len(content)


def render(report: Report) -> str:
    """The page. The same report gives the same bytes."""
    found = pictures.line_charts(report) | learning_charts(report)
    assets = read_assets("aloe_jax.report", "page", SCRIPTS, STYLES)
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            entries=report.entries,
            best=report.best("average"),
            pictures=pictures.drawn(found, {**pictures.TITLES, **TITLES}),
            charts=found,
            learning_titles=TITLES,
            stacks=pictures.stacks(report),
            forest=pictures.forest(report.pairs),
            coarse=_coarse(report),
            readings=control_readings(report),
            untrue=tables.assertions(report),
            control_tests=tests_with_controls(report),
            comparable=tables.COMPARABLE,
            defect_warnings=defects.warnings(report),
            lengths=length_controlled_runs(report),
            interval_notes=interval_notes,
            scored=pictures.scorers(report),
            persons={part: persons(report, part) for part in ("profile", "personality")},
            conditional=conditional_note(report.single_runs) if report.single_runs else "",
            unlike=unlike(report.runs) if len(report.judged) > 1 else [],
            markdown=tables.markdown(report) if report.entries else "",
            latex=tables.latex(report) if report.entries else "",
            data=Markup(as_script_data(payload.overview(report, found))),
            cases=[Markup(as_script_data(case)) for case in payload.cases(report)],
            style=Markup(assets.style),
            script=Markup(assets.script),
            style_hash=source_hash(assets.style),
            script_hash=source_hash(assets.script),
            version=__version__,
        )
    )


def persons(report: Report, part: Literal["profile", "personality"]) -> list[Persons]:
    """Groups of people by what they share, in the order in which they first come."""
    groups: dict[str, dict[int, CaseGroup]] = {}
    for number, entry in enumerate(report.entries):
        for group in getattr(entry.numbers, f"by_{part}"):
            groups.setdefault(group.text, {})[number] = group
    return [
        Persons(
            text,
            tuple(dict.fromkeys(id for group in by.values() for id in group.personas)),
            tuple(by.get(number) for number in range(len(report.entries))),
        )
        for text, by in groups.items()
    ]


def heat(value: Number) -> str:
    """The class of a cell by its rating, in quarters."""
    return "" if value is None else f"h{round(4 * (value - 1))}"


def missing(numbers: ModelResults) -> list[str]:
    """One line for each kind of gap; none where a model is complete."""
    found = []
    due = numbers.cases * numbers.turns
    by_turn = [round((1 - share) * numbers.cases) for share in numbers.coverage_by_turn]
    gone = sum(by_turn)
    if gone:
        turns = [f"{count} at turn {turn}" for turn, count in enumerate(by_turn, 1) if count]
        where = (
            number_text.listed(turns) if len(turns) <= 2 * SHOWN else f"at {len(turns)} of the {numbers.turns} turns"
        )
        found.append(f"{number_text.counted(gone, 'reply', 'replies')} of {due:,} without a rating: {where}")
    if numbers.stopped:
        stopped = number_text.counted(len(numbers.stopped), "dialogue")
        found.append(f"{stopped} stopped early: {_reasons(numbers.stopped.values())}")
    if numbers.votes_coverage < 1 and not numbers.complete:
        found.append(f"{number_text.percent(numbers.votes_coverage)} of the votes asked for are there")
    if bounds := interval_notes.describe_bounds(numbers):
        found.append(bounds)
    return found


def _reasons(reasons: Iterable[str]) -> str:
    often = Counter(reasons)
    shown = [reason + (f" ({count} times)" if count > 1 else "") for reason, count in often.most_common(SHOWN)]
    more = len(often) - len(shown)
    return "; ".join(shown) + (f"; and {number_text.counted(more, 'other reason')}" if more else "")


def _coarse(report: Report) -> float | None:
    """The least p-value that a single run can have, where nothing can be significant; between runs it is seen to."""
    results = [run.results for run in report.judged if run.results is not None]
    if len(results) != 1 or not report.pairs:
        return None
    return least if (least := least_p(results[0])) >= LEVEL else None


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("aloe_jax.report", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    forms = ("number", "signed", "percent", "interval", "p_value", "p_equation", "listed", "sentence")
    environment.filters |= {name: getattr(number_text, name) for name in forms}
    environment.filters |= {
        "heat": heat,
        "swatch": lambda look: Markup(svg.swatch(look)),
        "strong": significant,
        "runs_text": runs_text,
        "defect_shares": defects.shares,
        "means": StoredCalibration.means,
        "missing": lambda entry: missing(entry.numbers),
    }
    environment.globals.update(
        counted=number_text.counted, NAMES=number_text.NAMES, DIGITS=number_text.DIGITS, INTERVALS=INTERVALS
    )
    return environment
