"""95% intervals over people: how far a number of the benchmark may be from what endless people would give.

A case is taken with all its turns, because the turns of one dialogue depend on each other. What is independent follows
from the design of the cases (`aloe_jax.benchmark.case_design`):

Distinct people, for numbers that are means over cases or nearly so (AL, its average, IR, differences of these):
`studentised` bootstrap (bootstrap-t; Efron & Tibshirani 1993, chapter 12) of S resamples of U people. A person's share
in the number is its jackknife pseudo-value U·T − (U − 1)·T(without the person), which for a mean is the person's own
value, whatever is missing elsewhere. In simulations of 100 cases with integer ratings these intervals hold the truth
93–96% of the time; percentile intervals are a little too narrow.

Fewer than `FEW` distinct people: Student's t, which covers as well (94–96% with 3 to 12 cases in simulations) where
studentised intervals are up to twice as wide, since some resamples have hardly any spread.

People who share profiles or personalities: Student's t with the standard errors of `aloe_jax.benchmark.shared_parts`,
applied to the pseudo-values.

`bias_corrected`, for numbers that are biased when computed from noisy means (N-IR, R²): the estimate less its
bootstrap bias, plus and minus Student's quantile times the jackknife's standard error. Percentile intervals of R²
never hold a true R² of 1: every resample adds noise, which only lowers it. They hold the truth 90–100% of the time
where the trend of AL is many standard errors from 0, and as rarely as 5% where it is just significant:
`aloe_jax.benchmark.alignment` gives them in the first case only.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from aloe_jax.benchmark.case_design import CaseDesign
from aloe_jax.benchmark.shared_parts import Errors, mean_errors

Array = NDArray[np.float64]

CONFIDENCE = 0.95
FEW = 20  # distinct people below which resamples are too much alike
_NOTHING = 1e-9  # a spread below this is rounding


@functools.lru_cache(maxsize=8)
def resamples(cases: int, count: int, seed: int) -> Array:
    """How often each case is drawn in each resample, [count, cases]; nothing for one case. Not to be changed."""
    if cases < 2:
        return np.empty((0, cases))
    drawn = np.random.default_rng(seed).multinomial(cases, np.full(cases, 1 / cases), size=count).astype(float)
    drawn.setflags(write=False)
    return drawn


def left_out(cases: int) -> Array:
    """Weights [cases, cases]; every row leaves out one case."""
    return 1.0 - np.eye(cases)


def pseudo_values(value: Array, without: Array) -> Array:
    """The jackknife's pseudo-values [U, M] of `value` [M]: U·T − (U − 1)·T(without), `without` each of U people [U, M].

    For a mean they are the people's own values (Efron & Tibshirani 1993, chapter 11).
    """
    return len(without) * (value - without) + without


def studentised(
    value: Array, without: Array, weights: Array, least: Array | float = -np.inf, most: Array | float = np.inf
) -> Array:
    """Intervals [2, M] of M numbers: `value` [M], the same without each person [U, M], resamples [S, U].

    They are cut to `least` and `most`, what the numbers can be. NaN where a number is undefined, without some person
    too, and where there are fewer than two.
    """
    cases = len(without)
    if cases < 2 or not len(weights):
        return np.full((2, len(value)), np.nan)
    around = pseudo_values(value, without) - value
    spread = around.std(axis=0, ddof=1) / np.sqrt(cases)
    moved = weights @ around / cases  # [S, M]
    squares = weights @ around**2 / cases - moved**2
    scale = np.sqrt(np.maximum(squares, 0.0) / (cases - 1))
    flat = scale <= _NOTHING * np.maximum(spread, 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        # A resample of one case many times has no spread: it is infinitely many of its spreads away.
        far = np.where(np.abs(moved) <= _NOTHING, 0.0, np.sign(moved) * np.inf)
        t = np.where(flat, far, moved / np.where(flat, 1.0, scale))
    low, high = _quantiles(t)
    with np.errstate(invalid="ignore"):
        ends = np.stack([value - high * spread, value - low * spread])
    ends = np.clip(np.where(spread <= _NOTHING, value, ends), least, most)
    return np.where(np.isnan(without).any(axis=0) | np.isnan(value), np.nan, ends)


def bias_corrected(
    value: Array,
    without: Array,
    samples: Array,
    least: Array | float = -np.inf,
    most: Array | float = np.inf,
    design: CaseDesign | None = None,
) -> Array:
    """Intervals [2, M]: `value` [M], the same without each person [U, M], and of resamples [S, M].

    They hold the value itself, and are cut to `least` and `most`. NaN where a number is undefined, or without some
    person, or in more than half of the resamples. Without a `design` people are distinct.
    """
    people = len(without)
    if people < 2 or not len(samples):
        return np.full((2, len(value)), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns that are NaN throughout stay NaN
        centre = 2 * value - np.nanmean(samples, axis=0)
    reach = half_widths(jackknife_errors(value, without, design or CaseDesign.distinct(people)))
    ends = np.stack([np.minimum(centre - reach, value), np.maximum(centre + reach, value)])
    rare = np.isnan(samples).mean(axis=0) > 0.5
    return np.where(rare | np.isnan(ends).any(axis=0), np.nan, np.clip(ends, least, most))


def jackknife_errors(value: Array, without: Array, design: CaseDesign) -> Errors:
    """Standard errors of `value` [M] from the same without each person [U, M]; NaN where some is undefined."""
    error, freedom = mean_errors(pseudo_values(value, without), design)
    return Errors(np.where(np.isnan(without).any(axis=0) | np.isnan(value), np.nan, error), freedom)


def design_intervals(
    value: Array,
    without: Array,
    design: CaseDesign,
    count: int,
    seed: int,
    least: Array | float = -np.inf,
    most: Array | float = np.inf,
) -> Array:
    """Intervals [2, M] of `value` [M], the same without each person [U, M], by what the people of `design` share.

    Distinct people are resampled `count` times from `seed`. Cut to `least` and `most`; NaN as in `studentised`.
    """
    if design.people < 2:
        return np.full((2, len(value)), np.nan)
    if design.kind == "distinct" and design.people >= FEW:
        return studentised(value, without, resamples(design.people, count, seed), least, most)
    reach = half_widths(jackknife_errors(value, without, design))
    return np.clip(np.stack([value - reach, value + reach]), least, most)


def design_p_values(value: Array, without: Array, design: CaseDesign) -> Array:
    """Two-sided p-values [M] of Student's t test that `value` is 0, of people who share profiles or personalities.

    Where all people agree to the last digit there is no error to divide by: it is the sign test over people.
    """
    error, freedom = jackknife_errors(value, without, design)
    flat = error <= _NOTHING
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stdtr(freedom, -np.abs(value) / np.where(flat, 1.0, error))
    certain = np.where(np.abs(value) <= _NOTHING, 1.0, 2.0 ** (1 - design.people))
    return np.where(np.isnan(error), np.nan, np.where(flat, certain, p))


def interval(
    statistic: Callable[[Array], Array],
    design: CaseDesign,
    count: int,
    seed: int,
    least: Array | float = -np.inf,
    most: Array | float = np.inf,
) -> tuple[Array, Array]:
    """Values [M] and intervals [2, M] of a statistic of weights of the cases of `design`: [S, N] -> [S, M]."""
    people = design.people
    value = statistic(design.by_case(np.ones((1, people))))[0]
    if people < 2:
        return value, np.full((2, len(value)), np.nan)
    without = statistic(design.by_case(left_out(people)))
    return value, design_intervals(value, without, design, count, seed, least, most)


def half_widths(errors: Errors) -> Array:
    """Half the widths [M] of Student's 95% intervals."""
    return np.where(errors.error <= _NOTHING, 0.0, student_quantile(errors.freedom) * errors.error)


def student_quantile(freedom: ArrayLike, tail: float = (1 - CONFIDENCE) / 2) -> Array:
    """The values that Student's t exceeds with probability `tail`, in the shape of `freedom`."""
    return np.asarray(stdtrit(freedom, 1 - tail), dtype=np.float64)


def _quantiles(t: Array) -> tuple[Array, Array]:
    """The outer order statistics of t [S, M] at both ends, which may be infinite: no interpolation."""
    ordered = np.sort(t, axis=0)
    rank = min(len(t) - 1, max(0, round((len(t) + 1) * (1 - CONFIDENCE) / 2) - 1))
    return ordered[rank], ordered[len(t) - 1 - rank]
