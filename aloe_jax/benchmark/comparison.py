"""Differences between models that talked with the same people: intervals and p-values.

Three numbers are compared: the average AL, IR, and AL at the last turn. Models are paired over the cells (case, turn)
that both have a rating in, so that what is common to a case cancels and a model gains nothing by having no rating
where its people are hard to please. That holds where it depends on people and turns which ratings are missing. Where a
model's own failures decide, no calculation knows what is missing: the bounds (`aloe_jax.benchmark.missing`) say how far
that could move a difference.

Intervals and p-values follow the design of the cases (`aloe_jax.benchmark.case_design`). For distinct people:
studentised bootstraps, and the paired permutation test: under the hypothesis that it makes no difference which of the
two models a person had, the models' names may be swapped person by person, which flips the signs of the person's
differences. For people who share profiles or personalities: Student's t (`aloe_jax.benchmark.shared_parts`), so that a
model is better only where it would be so with other profiles and personalities. All p-values here are of single tests:
`aloe_jax.benchmark.multiple_tests` corrects them, once all tests are known that are read together.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from aloe_jax.benchmark.alignment import HIGHEST, LOWEST, alignment_level, checked, statistics_of
from aloe_jax.benchmark.case_design import CaseDesign, design_of
from aloe_jax.benchmark.intervals import Array, design_intervals, design_p_values, left_out
from aloe_jax.benchmark.missing import difference_bounds
from aloe_jax.benchmark.results import STATISTICS, Statistic, StoredDifference
from aloe_jax.errors import AloeError


def compare(
    first: ArrayLike,
    second: ArrayLike,
    bootstrap: int = 2000,
    permutations: int = 10_000,
    seed: int = 0,
    design: CaseDesign | None = None,
) -> dict[Statistic, StoredDifference]:
    """Differences `second` − `first` of ratings [N, K], of the same cases in the same order; uncorrected.

    Without a `design` every case is of a person of its own. Raises AloeError as `alignment_metrics` does, and when the
    shapes differ.
    """
    left, right = checked(first), checked(second)
    if left.shape != right.shape:
        raise AloeError(f"ratings: cannot pair {left.shape} with {right.shape}: rate the same cases")
    every = design_of(len(left), design)
    both = ~np.isnan(left) & ~np.isnan(right)
    bounds = difference_bounds(left, right)
    cases = np.flatnonzero(both.any(axis=1))
    value = low = high = p = np.full(len(STATISTICS), np.nan)
    if len(cases):
        people = every.subset(cases.tolist())
        table = np.where(both, right - left, np.nan)[cases]

        def differences(weights: Array) -> Array:
            return statistics_of(alignment_level(table, people.by_case(weights)))

        value = differences(np.ones((1, people.people)))[0]
        without = differences(left_out(people.people))
        span = HIGHEST - LOWEST
        reach = np.array([span, 2 * span, span])
        low, high = design_intervals(value, without, people, bootstrap, seed, -reach, reach)
        if people.kind == "distinct" or people.people < 2:
            p = _p_values(value, _flipped(table, people.by_case(_signs(people.people, permutations, seed))))
        else:
            p = design_p_values(value, without, people)
    return {
        name: StoredDifference(
            first="",
            second="",
            statistic=name,
            value=value[i],
            low=low[i],
            high=high[i],
            p=p[i],
            p_holm=None,
            cells=int(both.sum()),
            bounds=bounds.get(name),
        )
        for i, name in enumerate(STATISTICS)
    }


def compare_all(
    tables: Mapping[str, ArrayLike],
    bootstrap: int = 2000,
    permutations: int = 10_000,
    seed: int = 0,
    design: CaseDesign | None = None,
) -> list[StoredDifference]:
    """Every two of the models in `tables` (name -> ratings [N, K]), in their order; uncorrected."""
    return [
        difference.model_copy(update={"first": first, "second": second})
        for first, second in itertools.combinations(tables, 2)
        for difference in compare(tables[first], tables[second], bootstrap, permutations, seed, design).values()
    ]


def _flipped(table: Array, signs: Array) -> Array:
    """The statistics [S, 3] of differences [N, K] whose cases have these signs [S, N]."""
    rated = (~np.isnan(table)).sum(axis=0)
    total = signs @ np.nan_to_num(table)
    return statistics_of(np.where(rated > 0, total / np.maximum(rated, 1), np.nan))


def _p_values(value: Array, swapped: Array) -> Array:
    """Two-sided p-values [M] of values [M] among those of swapped names [S, M], which the observed ones are one of."""
    with np.errstate(invalid="ignore"):
        extreme = (np.abs(swapped) >= np.abs(value) - 1e-12).sum(axis=0)
    return np.where(np.isnan(value), np.nan, (1 + extreme) / (1 + len(swapped)))


@functools.lru_cache(maxsize=8)
def _signs(people: int, count: int, seed: int) -> Array:
    drawn = np.where(np.random.default_rng([seed, 1]).integers(0, 2, (count, people)) == 1, -1.0, 1.0)
    drawn.setflags(write=False)
    return drawn
