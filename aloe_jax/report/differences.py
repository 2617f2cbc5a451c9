"""Differences between models, within a run as it stored them, between runs over the people that both talked with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from aloe_jax.benchmark.case_design import CaseDesign, DesignKind
from aloe_jax.benchmark.comparison import compare
from aloe_jax.benchmark.multiple_tests import corrected_together
from aloe_jax.benchmark.results import (
    STATISTICS,
    Case,
    Results,
    StoredDifference,
    StoredSideBySide,
    inference_design,
    ratings_of_cases,
)

LEVEL = 0.05  # of the tests, after correction


@dataclass(frozen=True)
class ModelPair:
    """Two models, and by statistic what `second` has more than `first`."""

    first: str
    second: str
    cases: int  # over which they are paired
    turns: int
    by: Mapping[str, StoredDifference]
    kind: DesignKind | None = "distinct"  # by which they were computed; None: by none, though people share parts

    def puts_above(self, better: str, worse: str, statistic: str) -> bool:
        """Whether the corrected test says that `better` is above `worse`."""
        found = self.by.get(statistic)
        if found is None or not significant(found) or {better, worse} != {self.first, self.second}:
            return False
        assert found.value is not None
        return (found.value > 0) == (better == self.second)


def significant(difference: StoredDifference) -> bool:
    """Whether the corrected test rejects that there is none."""
    return difference.p_holm is not None and difference.p_holm < LEVEL and bool(difference.value)


def least_p(results: Results) -> float:
    """The smallest corrected p-value that the tests of a run can have: of permutation tests, by their number."""
    if results.design is not None and results.design.kind != "distinct":
        return 0.0  # Student's t
    tested = [one.p for one in results.differences] + [one.p for one in results.side_by_side]
    tests = sum(p is not None for p in tested)
    return min(1.0, tests / (1 + (_count(results.settings, "permutations") or 0)))


def pairs_within(results: Results) -> list[ModelPair]:
    """Of one run, corrected for all its tests."""
    found: dict[tuple[str, str], dict[str, StoredDifference]] = {}
    for difference in results.differences:
        found.setdefault((difference.first, difference.second), {})[difference.statistic] = difference
    models = results.models
    kind = inference_design(results)
    return [
        ModelPair(first, second, models[first].cases, models[first].turns, by, kind)
        for (first, second), by in found.items()
    ]


def pairs_between[K](
    models: Mapping[str, tuple[Mapping[K, Case], int]], settings: Mapping[str, object], other_tests: int = 0
) -> list[ModelPair]:
    """Of every two models (label -> cases by person, turns), over the people and the turns that both have.

    Computed as a run computes its own (`aloe_jax.benchmark.comparison`), with the resamples and the seed of `settings`;
    uncorrected. Permutations are at least as many as it takes for a corrected p-value of LEVEL / 2, with `other_tests`
    more of the same family.
    """
    tests = len(STATISTICS) * math.comb(len(models), 2) + other_tests
    bootstrap = _count(settings, "bootstrap") or 2000
    permutations = max(_count(settings, "permutations") or 0, math.ceil(2 * tests / LEVEL))
    seed = _count(settings, "seed") or 0
    compared = []
    for first, second in combinations(models, 2):
        (left, longer), (right, other) = models[first], models[second]
        shared, turns = [key for key in left if key in right], min(longer, other)
        if not shared or not turns:
            continue
        one, two = (ratings_of_cases([cases[key] for key in shared], turns) for cases in (left, right))
        design = CaseDesign.of([left[key].persona for key in shared])
        found = compare(one, two, bootstrap, permutations, seed, design)
        by: dict[str, StoredDifference] = {
            name: found[name].model_copy(update={"first": first, "second": second}) for name in STATISTICS
        }
        compared.append(ModelPair(first, second, len(shared), turns, by, design.kind))
    return compared


@dataclass(frozen=True)
class JudgedPair:
    """Two models of a run whose dialogues judges read side by side."""

    run: str
    found: StoredSideBySide


def with_sides(pairs: Sequence[ModelPair], runs: Mapping[str, Results]) -> tuple[list[ModelPair], list[JudgedPair]]:
    """The pairs, and what judges said of dialogues side by side in all runs (by name), corrected as one family.

    Those of a single run are as it stored them, unless it is of a version that corrected its differences alone.
    """
    sides = [JudgedPair(name, one) for name, results in runs.items() for one in results.side_by_side]
    stored = all(side.found.p is None or side.found.p_holm is not None for side in sides)
    if len(runs) == 1 and stored:
        return list(pairs), sides
    tests = [(pair, name) for pair in pairs for name in pair.by]
    differences, found = corrected_together([pair.by[name] for pair, name in tests], [side.found for side in sides])
    corrected = iter(differences)
    return (
        [replace(pair, by={name: next(corrected) for name in pair.by}) for pair in pairs],
        [JudgedPair(side.run, one) for side, one in zip(sides, found, strict=True)],
    )


def _count(settings: Mapping[str, object], name: str) -> int | None:
    """A setting of a run, which `check_results` found to be a whole number; None where it has none."""
    value = settings.get(name)
    return value if isinstance(value, int) else None
