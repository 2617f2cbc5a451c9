"""The page's drawings: which lines each chart has, the stacked ratings, the intervals of the differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from aloe_jax.benchmark.number_text import listed
from aloe_jax.benchmark.preference_file import ModelScores
from aloe_jax.benchmark.results import Number
from aloe_jax.report import svg
from aloe_jax.report.differences import ModelPair, significant
from aloe_jax.report.gathering import Entry, Report
from aloe_jax.report.svg import Line, Look, model_look

Unit = Literal["rating", "share", "words", "nats"]

TITLES = {
    "words": "Mean words of a reply by turn",
    "mentioned": "Share of replies that mention a revealed fact, by turn",
    "leaked": "Share of replies that let out a fact that had not been revealed, by turn",
    "preferences-accuracy": "Accuracy by turn",
    "preferences-reward_accuracy": "Reward accuracy by turn",
    "preferences-margin": "Margin in nats by turn",
}
PREFERENCES: tuple[tuple[str, Unit], ...] = (("accuracy", "share"), ("reward_accuracy", "share"), ("margin", "nats"))


@dataclass(frozen=True)
class Chart:
    """The lines of one chart over turns, or over these steps of training, and what they count."""

    unit: Unit
    lines: Sequence[Line]
    steps: Sequence[float] = ()


@dataclass(frozen=True)
class Scorer:
    """One model of preference scoring: drawn as in the benchmark where it is there too."""

    label: str
    look: Look
    scores: ModelScores


def line_charts(report: Report) -> dict[str, Chart]:
    """All charts over turns, by name; none without lines."""

    def of(unit: Unit, values: Callable[[Entry], Sequence[Number]]) -> Chart:
        return Chart(unit, [Line(i, one.label, one.look, values(one)) for i, one in enumerate(report.entries)])

    levels = [
        Line(i, one.label, one.look, one.numbers.al, one.numbers.al_low, one.numbers.al_high)
        for i, one in enumerate(report.entries)
    ]
    found = {
        "al": Chart("rating", levels),
        "words": of("words", lambda entry: entry.numbers.automatic.words_by_turn),
        "mentioned": of("share", lambda entry: entry.numbers.automatic.mentioned_by_turn),
        "leaked": of("share", lambda entry: entry.numbers.automatic.leaked_by_turn),
    }
    models = scorers(report)
    turns = max((turn.turn for one in models for turn in one.scores.by_turn), default=0)
    for name, unit in PREFERENCES:
        lines = []
        for number, one in enumerate(models):
            by_turn = {turn.turn: getattr(turn, name) for turn in one.scores.by_turn}
            lines.append(Line(number, one.label, one.look, [by_turn.get(turn) for turn in range(1, turns + 1)]))
        if any(value is not None for line in lines for value in line.values):
            found[f"preferences-{name}"] = Chart(unit, lines)
    return {name: chart for name, chart in found.items() if chart.lines}


def drawn(found: Mapping[str, Chart], titles: Mapping[str, str] = TITLES) -> dict[str, Markup]:
    """Every chart as SVG; `titles` has those of all but AL(k)."""
    pictures = {}
    for name, chart in found.items():
        turns = max(len(line.values) for line in chart.lines)
        if name == "al":
            frame = svg.rating_frame(turns, len(chart.lines))
            title = f"Alignment level by turn of {listed([line.label for line in chart.lines])}"
        else:
            most = 1.0 if name.endswith("accuracy") else 5.0 if name == "learning-watch" else None
            frame = svg.small_frame(chart.lines, turns, chart.unit == "share", most, chart.steps)
            title = titles[name]
        pictures[name] = Markup(svg.line_chart(chart.lines, frame, f"{title}; the table below has the numbers"))
    return pictures


def scorers(report: Report) -> list[Scorer]:
    """The models of preference scoring, over all runs that have it."""
    several = sum(run.preferences is not None for run in report.runs) > 1
    free = (model_look(index) for index in range(len(report.models), 10_000))
    found: list[Scorer] = []
    for run in report.runs:
        for model, scores in (run.preferences.models if run.preferences else {}).items():
            alike = [entry for entry in report.models if entry.model == model]
            same = next((entry for entry in alike if entry.run == run.name), alike[0] if alike else None)
            taken = {one.look for one in found}
            look = same.look if same is not None and same.look not in taken else next(free)
            found.append(Scorer(f"{model} ({run.name})" if several else model, look, scores))
    return found


def stacks(report: Report) -> list[tuple[Entry, int, Markup]]:
    """Each model's ratings by turn, with the number of votes that are due at every turn."""
    judging = {run.name: run.results for run in report.judged if run.results is not None}
    found = []
    for entry in report.entries:
        results = judging[entry.run]
        due = entry.numbers.cases * len(results.judges) * results.votes
        title = f"Ratings of {entry.label} from 1 to 5 by turn; the table below has the numbers"
        found.append((entry, due, Markup(svg.stacked_chart(entry.numbers.histogram, due, title))))
    return found


def forest(pairs: Sequence[ModelPair]) -> list[tuple[ModelPair, dict[str, Markup]]]:
    """Every pair with a drawing per difference; those of one statistic share a scale."""
    spans: dict[str, tuple[float, float]] = {}
    for pair in pairs:
        for name, one in pair.by.items():
            ends = [*spans.get(name, (0.0,)), *(end for end in (one.value, one.low, one.high) if end is not None)]
            spans[name] = min(ends), max(ends)
    return [
        (
            pair,
            {
                name: Markup(svg.difference_chart(one.value, one.low, one.high, spans[name], significant(one)))
                for name, one in pair.by.items()
            },
        )
        for pair in pairs
    ]
