"""Standard errors of means over people who share profiles or personalities.

The effects of profile, personality and the rest are random and add up: y = mean + profile + personality + rest. The
variance of the mean over U people is estimated from mean squares, its degrees of freedom by Satterthwaite's formula
(1946), and intervals and tests are Student's t with those.

Both shared (crossed): from the analysis of variance of the additive model, each part adjusted for the other; for a
complete table that is V = (MS_profile + MS_personality - MS_rest) / U. The difference of mean squares alone is erratic
where a part has no effect and few levels. A part whose F test has p > 0.25 is therefore pooled with the rest, the
less significant one first (Bancroft 1964, Biometrics 20: "sometimes pool" at 0.25). In simulations of 20 profiles and
5 personalities intervals cover 94 to 97% and tests reject 3 to 6% at every size of the effects; they are on the
careful side where there is none. Where combinations are so few that the rest has less than half of the people as
degrees of freedom, parts are pooled above p = 0.4 only (2 to 6%, from 30 of those 100 people on); with fewer than 5
degrees of freedom: two-way cluster-robust variance (Cameron, Gelbach & Miller 2011) with the fewer levels less one,
which rejects 0.5 to 5%. Parts of fewer than 5 levels are not in the model (`case_design`).

One shared: the cluster mean square, which for clusters of one size is exact.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from aloe_jax.benchmark.case_design import Array, CaseDesign, Numbers

POOLED_ABOVE = 0.25  # p-value of a part's F test above which the part is pooled with the rest
POOLED_ABOVE_SPARSE = 0.4  # the same, where the rest has less than half of the people as degrees of freedom
LEAST_REST = 5  # degrees of freedom of the rest from which mean squares are compared with it


class Errors(NamedTuple):
    """Standard errors [M] of M means, and their degrees of freedom [M]."""

    error: Array
    freedom: Array


class _Squares(NamedTuple):
    """Mean squares [M] of a part and of the rest, and how the part's enters the variance of the mean."""

    part: Array
    freedom: int
    rest: Array
    rest_freedom: int
    share: float  # (sum of squared level sizes / U) over the part's coefficient in its expected mean square


def mean_errors(values: Array, design: CaseDesign) -> Errors:
    """Of the means over people of `values` [U, M], by what the people of `design` share.

    For other statistics `values` are their jackknife pseudo-values. NaN with fewer than two people.
    """
    people = len(values)
    if people < 2:
        return Errors(*np.full((2, values.shape[1]), np.nan))
    values = values - values.mean(axis=0)  # so that sums of squares lose no digits
    parts = design.shared_parts()
    if not parts:
        variance, freedom = values.var(axis=0, ddof=1), np.full(values.shape[1], people - 1.0)
    elif len(parts) == 1:
        variance, freedom = _clustered(values, parts[0])
    else:
        both = _basis(design)
        if people - both.shape[1] >= LEAST_REST:
            variance, freedom = _crossed(values, parts[0], parts[1], both)
        else:
            variance, freedom = _sparse(values, parts)
    return Errors(np.sqrt(variance / people), freedom)


def _clustered(values: Array, part: Numbers) -> tuple[Array, Array]:
    squares = _one_part(values, part)
    variance, freedom = _with_part(squares)
    return np.maximum(variance, squares.part), np.where(variance >= squares.part, freedom, squares.freedom)


def _crossed(values: Array, first: Numbers, second: Numbers, both: Array) -> tuple[Array, Array]:
    people = len(values)
    ranks = both.shape[1]
    explained = ((both.T @ values) ** 2).sum(axis=0)
    total = (values**2).sum(axis=0)
    rest_freedom = people - ranks
    rest = np.maximum(total - explained, 0.0) / rest_freedom
    pooled_above = POOLED_ABOVE if rest_freedom >= people / 2 else POOLED_ABOVE_SPARSE

    def adjusted(part: Numbers, other: Numbers) -> _Squares:
        """The part's mean square after the other part."""
        freedom = ranks - _levels(other)
        mean_square = np.maximum(explained - _between(values, other), 0.0) / freedom
        sizes = np.bincount(part)
        together = np.zeros((len(sizes), _levels(other)))
        np.add.at(together, (part, other), 1.0)
        coefficient = (people - (together**2 / np.bincount(other)).sum()) / freedom
        return _Squares(mean_square, freedom, rest, rest_freedom, (sizes**2).sum() / people / coefficient)

    one, two = adjusted(first, second), adjusted(second, first)
    p_one, p_two = _p(one), _p(two)
    remaining = 1 - one.share - two.share
    variance = one.share * one.part + two.share * two.part + remaining * rest
    spread = (one.share * one.part) ** 2 / one.freedom + (two.share * two.part) ** 2 / two.freedom
    spread += (remaining * rest) ** 2 / rest_freedom
    found = variance, _satterthwaite(variance, spread)

    flat = values.var(axis=0, ddof=1), np.full(values.shape[1], people - 1.0)
    pooled = []
    for part in (first, second):
        alone = _one_part(values, part)
        keep = _p(alone) <= pooled_above
        pooled.append([np.where(keep, kept, without) for kept, without in zip(_with_part(alone), flat, strict=True)])
    keep_both = np.maximum(p_one, p_two) <= pooled_above
    variance, freedom = (
        np.where(keep_both, full, np.where(p_one <= p_two, left, right))
        for full, left, right in zip(found, *pooled, strict=True)
    )
    return np.maximum(variance, 0.0), freedom


def _sparse(values: Array, parts: list[Numbers]) -> tuple[Array, Array]:
    people = len(values)
    centred = values - values.mean(axis=0)
    alone = (centred**2).sum(axis=0) / (people - 1)
    variance = -alone
    for part in parts:
        sums = _sums(centred, part)
        variance = variance + (sums**2).sum(axis=0) / people * len(sums) / (len(sums) - 1)
    return np.maximum(variance, alone), np.full(values.shape[1], min(map(_levels, parts)) - 1.0)


def _one_part(values: Array, part: Numbers) -> _Squares:
    people, sizes = len(values), np.bincount(part)
    between = _between(values, part)
    mean = people * values.mean(axis=0) ** 2
    freedom, rest_freedom = len(sizes) - 1, people - len(sizes)
    rest = np.maximum((values**2).sum(axis=0) - between, 0.0) / rest_freedom
    coefficient = (people - (sizes**2).sum() / people) / freedom
    share = (sizes**2).sum() / people / coefficient
    return _Squares(np.maximum(between - mean, 0.0) / freedom, freedom, rest, rest_freedom, share)


def _with_part(squares: _Squares) -> tuple[Array, Array]:
    """U times the variance of the mean with a component for the part, and its degrees of freedom."""
    part, rest = squares.share * squares.part, (1 - squares.share) * squares.rest
    variance = np.maximum(part + rest, 0.0)
    return variance, _satterthwaite(variance, part**2 / squares.freedom + rest**2 / squares.rest_freedom)


def _satterthwaite(variance: Array, spread: Array) -> Array:
    return np.where(spread > 0, variance**2 / np.where(spread > 0, spread, 1.0), 1.0)


def _p(squares: _Squares) -> Array:
    """Of the F test that the part has no effect; 1 where nothing varies."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = squares.part / squares.rest
    p: Array = fdtrc(squares.freedom, squares.rest_freedom, ratio)
    return np.where(np.isnan(p), 1.0, p)


def _levels(part: Numbers) -> int:
    return int(part.max()) + 1


def _sums(values: Array, part: Numbers) -> Array:
    """By level: [levels, M]."""
    sums = np.zeros((_levels(part), values.shape[1]))
    np.add.at(sums, part, values)
    return sums


def _between(values: Array, part: Numbers) -> Array:
    """The sum of squares that the means of the levels explain, the grand mean included: [M]."""
    return (_sums(values, part) ** 2 / np.bincount(part)[:, None]).sum(axis=0)


@lru_cache(maxsize=16)
def _basis(design: CaseDesign) -> NDArray[np.float64]:
    """An orthonormal basis [U, rank] of what profiles and personalities explain together."""
    columns = [np.eye(_levels(part))[part] for part in design.shared_parts()]
    left, values, _ = np.linalg.svd(np.concatenate(columns, axis=1), full_matrices=False)
    basis = left[:, values > 1e-9 * values[0]]
    basis.setflags(write=False)
    return basis
