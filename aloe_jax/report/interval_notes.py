"""What the report says of its intervals and tests: how they were computed, for whom they hold, and what has none."""

from __future__ import annotations

from aloe_jax.benchmark.alignment import CLEAR
from aloe_jax.benchmark.case_design import CaseDesign, DesignKind
from aloe_jax.benchmark.intervals import FEW
from aloe_jax.benchmark.number_text import DIGITS, NAMES, interval, listed
from aloe_jax.benchmark.results import ModelResults, Results, inference_design
from aloe_jax.report.gathering import Report, stored_before

_VARYING: dict[DesignKind, str] = {
    "crossed": "profiles and personalities",
    "shared profiles": "profiles",
    "shared personalities": "personalities",
}


def describe_people(report: Report) -> str:
    """Who talks with the models."""
    said = CaseDesign.of(list(report.personas.values())).described()
    return said + (" talks" if said == "one person" else ", talk" if ", " in said else " talk")


def same_people(report: Report) -> bool:
    """Whether every model talked with everybody."""
    return all(entry.cases.keys() == report.personas.keys() for entry in report.entries)


def describe_intervals(report: Report) -> str:
    """How the 95% intervals of the models were computed, and for which people they hold; nothing without any."""
    with_some = {entry.run for entry in report.entries if entry.numbers.average.low is not None}
    runs = [run.results for run in report.judged if run.results is not None and run.name in with_some]
    return "; ".join(dict.fromkeys(map(_intervals, runs)))


def describe_tests(report: Report) -> str:
    """How the p-values of differences were computed."""
    kinds = dict.fromkeys(pair.kind for pair in report.pairs)
    return "; ".join(_test(kind) for kind in kinds) + ", corrected by Holm's method for all tests made together"


def tests_counted(report: Report) -> int:
    """How many tests between models the correction is for; what is undefined was not tested."""
    tested = [found.p for pair in report.pairs for found in pair.by.values()] + [side.found.p for side in report.sides]
    return sum(p is not None for p in tested)


def describe_side_tests(report: Report) -> str:
    """How the p-values of dialogues side by side were computed."""
    runs = {run.name: run.results for run in report.judged if run.results is not None}
    return "; ".join(dict.fromkeys(_side_test(runs[side.run]) for side in report.sides))


def paired_over(report: Report) -> str:
    """Over which ratings two models are compared."""
    if any(found.cells is None for pair in report.pairs for found in pair.by.values()):
        return "over the same people, every model by all ratings that it has"
    return "over the replies of the same people and turns that both have a rating for"


def has_bounds(report: Report) -> bool:
    """Whether some difference comes with what it could be if the missing ratings were known."""
    return any(found.bounds is not None for pair in report.pairs for found in pair.by.values())


def describe_missing_votes(report: Report) -> str:
    """What a rating is where a judge's vote is missing, in the runs that have one; runs differ by their age."""
    before = _stored_before(report)
    said = []
    if len(before) < len(report.judged):
        others = " in the other runs" if before else ""
        said.append(
            f"Where a judge's vote is missing{others}, the other votes are corrected by those judges' mean leniency."
        )
    if before:
        of = f" in {listed(before)}" if len(before) < len(report.judged) else ""
        said.append(f"Where a judge's vote is missing{of}, a rating is the mean of the others as they are.")
    if any(entry.numbers.bounds for entry in report.entries):
        said.append("Ranges for missing ratings hold whatever between 1 and 5 they would be.")
    return " ".join(said)


def describe_trend_intervals(report: Report) -> str:
    """Which models have an interval of N-IR and R²."""
    before = _stored_before(report)
    said = ""
    if len(before) < len(report.judged):
        said = (
            f"They have an interval only where IR is at least {CLEAR:.0f} times the half width of its interval from 0: "
            "nearer, they mostly describe noise, and intervals would not cover the truth."
        )
    return f"{said} {_hidden(before, len(report.judged))}".strip()


def fixed_parts_note(report: Report) -> str:
    """Which parts of the people a run takes as given because it has too few; nothing where there are none."""
    given = {run.name: _design(run.results).fixed_parts() for run in report.judged if run.results is not None}
    if not any(given.values()):
        return ""
    first, *others = given.values()
    if all(other == first for other in others):
        return f"The numbers hold for {listed(first)} alone."
    return " ".join(f"The numbers of {name} hold for {listed(parts)} alone." for name, parts in given.items() if parts)


def without_interval(report: Report) -> str:
    """Why N-IR and R² of some models have no interval; nothing where all have one."""
    before = _stored_before(report)
    bare = [
        entry.label
        for entry in report.entries
        if entry.numbers.n_ir.value is not None
        and entry.numbers.n_ir.low is None
        and entry.numbers.cases > 1
        and entry.run not in before
    ]
    said = ""
    if bare:
        said = (
            f"No interval of N-IR and R² for {listed(bare)}: IR is less than {CLEAR:.0f} times the half width of its "
            "interval from 0 there, so that both mostly describe noise."
        )
    return f"{said} {_hidden(before, len(report.judged))}".strip()


def describe_bounds(numbers: ModelResults) -> str:
    """Between what a model's numbers would be if all missing ratings were known; nothing where none is missing."""
    parts = []
    for name in ("average", "ir"):
        if name in numbers.bounds:
            found = numbers.bounds[name]
            parts.append(f"{NAMES[name]} {interval(found.least, found.most, DIGITS[name])}")
    return f"whatever the missing ratings are: {listed(parts)}" if parts else ""


def _stored_before(report: Report) -> list[str]:
    """The runs that an earlier version computed, by its own methods: see `gathering.stored_before`."""
    return [run.name for run in report.judged if run.results is not None and stored_before(run.results)]


def _hidden(before: list[str], runs: int) -> str:
    """Why the runs `before` have no intervals of N-IR and R²; nothing where there are none."""
    if not before:
        return ""
    of = f" of {listed(before)}" if len(before) < runs else ""
    return (
        f"Intervals of N-IR and R²{of} are not shown: an earlier version gave them where they do not cover the truth; "
        "aloe evaluate --rescore OUTPUT computes them anew."
    )


def _design(results: Results) -> CaseDesign:
    cases = next(iter(results.cases.values()), [])
    return CaseDesign.of([case.persona for case in cases])


def _intervals(results: Results) -> str:
    if inference_design(results) is None:
        return (
            "bootstrap over cases taken for independent, though they share profiles or personalities: too narrow; "
            "aloe evaluate --rescore OUTPUT computes them anew and asks nothing"
        )
    if stored_before(results):
        return "studentised bootstrap over people"
    kind = _design(results).kind
    if kind in _VARYING:
        varying = _VARYING[kind]
        return f"Student's t with the variance between {varying}, for other people with other {varying}"
    return f"studentised bootstrap over people (Student's t for fewer than {FEW})"


def _side_test(results: Results) -> str:
    if inference_design(results) is None:
        return "a sign test over cases taken for independent, though they share profiles or personalities"
    kind = _design(results).kind
    return f"Student's t with the variance between {_VARYING[kind]}" if kind in _VARYING else "a sign test"


def _test(kind: DesignKind | None) -> str:
    if kind is None:
        return "a permutation test over cases taken for independent, though they share profiles or personalities"
    if kind in _VARYING:
        return f"a paired Student's t test with the variance between {_VARYING[kind]}"
    return "a paired permutation test over people"
