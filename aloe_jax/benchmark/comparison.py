"""Differences between models that talked with the same people: intervals, p-values, correction for many tests.

Three numbers are compared: the average AL, IR, and AL at the last turn. Intervals are studentised bootstraps over
cases (`aloe_jax.benchmark.intervals`), each resample taking the same cases from both models, so that what is common
to a case cancels. P-values are those of the paired permutation test: under the hypothesis that it makes no difference
which of the two models a case had, the models' names may be swapped case by case, which for complete ratings flips
the signs of the cases' differences. Holm's method corrects them for all the tests of one list.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike

from aloe_jax.benchmark.alignment import HIGHEST, LOWEST, alignment_level, checked, summaries
from aloe_jax.benchmark.intervals import Array, left_out, resamples, studentised
from aloe_jax.benchmark.results import Number, Statistic, StoredDifference
from aloe_jax.errors import AloeError

STATISTICS: tuple[Statistic, ...] = get_args(Statistic)


def compare(
    first: ArrayLike, second: ArrayLike, bootstrap: int = 2000, permutations: int = 10_000, seed: int = 0
) -> dict[Statistic, StoredDifference]:
    """Differences `second` − `first` of ratings [N, K], of the same cases in the same order; uncorrected.

    Raises AloeError as `alignment_metrics` does, and when the shapes differ.
    """
    left, right = checked(first), checked(second)
    if left.shape != right.shape:
        raise AloeError(f"ratings: cannot pair {left.shape} with {right.shape}: rate the same cases")
    cases = len(left)

    def differences(weights: Array) -> Array:
        return _of_levels(alignment_level(right, weights)) - _of_levels(alignment_level(left, weights))

    value = differences(np.ones((1, cases)))[0]
    span = HIGHEST - LOWEST
    reach = np.array([span, 2 * span, span])
    low, high = studentised(value, differences(left_out(cases)), resamples(cases, bootstrap, seed), -reach, reach)
    swapped = _swapped_differences(left, right, _swaps(cases, permutations, seed))
    p = _p_values(value, swapped)
    return {
        name: StoredDifference(
            first="", second="", statistic=name, value=value[i], low=low[i], high=high[i], p=p[i], p_holm=p[i]
        )
        for i, name in enumerate(STATISTICS)
    }


def compare_all(
    tables: Mapping[str, ArrayLike], bootstrap: int = 2000, permutations: int = 10_000, seed: int = 0
) -> list[StoredDifference]:
    """Every two of the models in `tables` (name -> ratings [N, K]), in their order, with p-values after Holm.

    The correction is for all tests in the list: pairs times statistics.
    """
    found = [
        difference.model_copy(update={"first": first, "second": second})
        for first, second in itertools.combinations(tables, 2)
        for difference in compare(tables[first], tables[second], bootstrap, permutations, seed).values()
    ]
    corrected = holm([difference.p for difference in found])
    return [difference.model_copy(update={"p_holm": p}) for difference, p in zip(found, corrected, strict=True)]


def holm(p_values: Sequence[Number]) -> list[Number]:
    """Holm's step-down correction (1979), in the given order; None stands for a test that was not made."""
    made = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[Number] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(made):
        largest = corrected[i] = max(largest, min(1.0, (len(made) - rank) * p))
    return corrected


def _of_levels(al: Array) -> Array:
    """Average, IR and last AL [S, 3] of AL [S, K]."""
    found = summaries(al)
    return np.stack([found["average"], found["ir"], al[:, -1]], axis=1)


def _swapped_differences(left: Array, right: Array, swaps: Array) -> Array:
    """Differences [S, 3] with the models' names swapped in the cases that `swaps` [S, N] marks with 1."""
    kept = 1.0 - swaps

    def mixed(own: Array, other: Array) -> Array:
        rated = kept @ ~np.isnan(own) + swaps @ ~np.isnan(other)
        total = kept @ np.nan_to_num(own) + swaps @ np.nan_to_num(other)
        return np.where(rated > 0, total / np.maximum(rated, 1.0), np.nan)

    return _of_levels(mixed(right, left)) - _of_levels(mixed(left, right))


def _p_values(value: Array, swapped: Array) -> Array:
    """Two-sided p-values [M] of values [M] among swapped ones [S, M]; the observed names count as one more swap."""
    with np.errstate(invalid="ignore"):
        extreme = (np.abs(swapped) >= np.abs(value) - 1e-12).sum(axis=0)
    return np.where(np.isnan(value), np.nan, (1 + extreme) / (1 + len(swapped)))


@functools.lru_cache(maxsize=8)
def _swaps(cases: int, count: int, seed: int) -> Array:
    drawn = np.random.default_rng([seed, 1]).integers(0, 2, (count, cases)).astype(float)
    drawn.setflags(write=False)
    return drawn
