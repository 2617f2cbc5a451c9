"""What the report says of its intervals and tests: how they were computed, for whom they hold, and what has none."""

from __future__ import annotations

from aloe_jax.benchmark.alignment import CLEAR
from aloe_jax.benchmark.case_design import CaseDesign, DesignKind
from aloe_jax.benchmark.intervals import FEW
from aloe_jax.benchmark.number_text import DIGITS, NAMES, interval, listed
from aloe_jax.benchmark.results import ModelResults, inference_design
from aloe_jax.report.gathering import Report

_VARYING: dict[DesignKind, str] = {
    "crossed": "profiles and personalities",
    "shared profiles": "profiles",
    "shared personalities": "personalities",
}


def describe_people(report: Report) -> str:
    """Who talks with the models."""
    said = CaseDesign.of(list(report.personas.values())).described()
    return said + (" talks" if said == "one person" else ", talk" if ", " in said else " talk")


def describe_intervals(report: Report) -> str:
    """How the 95% intervals of the models were computed, and for which people they hold."""
    return "; ".join(_intervals(kind) for kind in _kinds(report))


def describe_tests(report: Report) -> str:
    """How the p-values of differences were computed."""
    kinds = dict.fromkeys(pair.kind for pair in report.pairs)
    return "; ".join(_test(kind) for kind in kinds) + ", corrected by Holm's method for all tests made together"


def fixed_parts_note(report: Report) -> str:
    """Which parts of the people the numbers take as given because there are too few; nothing where there are none."""
    given = CaseDesign.of(list(report.personas.values())).fixed_parts()
    return f"The numbers hold for {listed(given)} alone." if given else ""


def without_interval(report: Report) -> str:
    """Why N-IR and R² of some models have no interval; nothing where all have one."""
    bare = [
        entry.label
        for entry in report.entries
        if entry.numbers.n_ir.value is not None and entry.numbers.n_ir.low is None and entry.numbers.cases > 1
    ]
    if not bare:
        return ""
    return (
        f"No interval of N-IR and R² for {listed(bare)}: IR is less than {CLEAR:.0f} times the half width of its "
        "interval from 0 there, so that both mostly describe noise."
    )


def describe_bounds(numbers: ModelResults) -> str:
    """Between what a model's numbers would be if all missing ratings were known; nothing where none is missing."""
    parts = []
    for name in ("average", "ir"):
        if name in numbers.bounds:
            found = numbers.bounds[name]
            parts.append(f"{NAMES[name]} {interval(found.least, found.most, DIGITS[name])}")
    return f"whatever the missing ratings are: {listed(parts)}" if parts else ""


def _kinds(report: Report) -> list[DesignKind | None]:
    """Of the designs that the runs were computed by; None where a run took people for independent who are not."""
    found = [inference_design(run.results) for run in report.judged if run.results is not None]
    return list(dict.fromkeys(found))


def _intervals(kind: DesignKind | None) -> str:
    if kind is None:
        return (
            "bootstrap over cases taken for independent, though they share profiles or personalities: too narrow; "
            "aloe evaluate --rescore OUTPUT computes them anew and asks nothing"
        )
    if kind in _VARYING:
        varying = _VARYING[kind]
        return f"Student's t with the variance between {varying}, for other people with other {varying}"
    return f"studentised bootstrap over people (Student's t for fewer than {FEW})"


def _test(kind: DesignKind | None) -> str:
    if kind is None:
        return "a permutation test over cases taken for independent, though they share profiles or personalities"
    if kind in _VARYING:
        return f"a paired Student's t test with the variance between {_VARYING[kind]}"
    return "a paired permutation test over people"
