"""What a training recipe gives, not one run of it: means and differences with the variance between training runs.

A recipe is all settings of a training but its seeds. A number of the benchmark (a mean over cases) of run m of a recipe
is the recipe's mean + what its runs share on these cases + what run m has of its own. The variance of the mean over n
runs therefore has two parts:

    T = s²/n        s²: the variance of the numbers of single runs, with n − 1 degrees of freedom. It holds the
                    variance between training runs and the noise that every run's replies have of their own.
    K = C − E       C: the variance, over cases, of the mean of the runs; E: the part of it that comes from the runs'
                    own deviations, which is in T already. K is what a draw of other people would change in all runs
                    alike. Where it is estimated below 0, it is 0.

For a difference of two recipes whose runs have the same seeds, all this is computed of the differences run by run:
whatever the runs of a seed share (they may start from one another) cancels or is accounted for, and n is the number of
seeds. Otherwise the runs are taken to be independent, and T is the sum of both recipes' parts, with the degrees of
freedom of Welch (1947) and Satterthwaite (1946).

T has few degrees of freedom f, K has many. The critical value is w·t(f) + (1 − w)·t(cases), with w = ρ^a and
ρ = T / (T + K): exact where one part is all there is. With a = 1 this is Cochran and Cox's (1957); it is used for two
runs (f = 1). For three and more a = 1.5, which was found by simulation: a = 1 tests at 3 to 5%, Satterthwaite's degrees
of freedom of the sum at 5 to 8% with three runs and at 5 to 12% with two. `tests/benchmark/test_recipes.py` has
the figures.

Nothing can be said of a recipe with one run: its numbers are conditional on those weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

from aloe_jax.benchmark.alignment import alignment_level, checked, statistics_of
from aloe_jax.benchmark.case_design import CaseDesign, design_of
from aloe_jax.benchmark.intervals import CONFIDENCE, Array, left_out, pseudo_values
from aloe_jax.benchmark.results import STATISTICS, Statistic
from aloe_jax.benchmark.shared_parts import mean_errors
from aloe_jax.errors import AloeError

_NOTHING = 1e-12  # a variance below this is rounding
_LEAST_P = 1e-12


@dataclass(frozen=True)
class MeanVariance:
    """The variance of a mean over cases or runs, and its degrees of freedom."""

    variance: float
    freedom: float


@dataclass(frozen=True)
class RecipeEstimate:
    """A number over the training runs of a recipe, or over those of two, with its 95% interval.

    `runs` are those of each recipe, one number or two; `spread` is the standard deviation of the number over the runs
    (paired: of the differences, run by run; None for unpaired runs). `p` is two-sided, of the number being 0.
    """

    value: float
    low: float
    high: float
    p: float
    runs: tuple[int, ...]
    spread: float | None


def estimate_recipe(values: Array, design: CaseDesign | None = None) -> RecipeEstimate:
    """The mean of a recipe from per-case values [N cases, n runs], n ≥ 2.

    `design` says who the cases are of; without it every case is of a person of its own. Raises AloeError with fewer
    than two runs or cases, for a value that is not finite, and for a `design` of another number of cases.
    """
    _check(values)
    shared, own = _parts(values, design_of(len(values), design))
    training = _training(values)
    value = float(values.mean())
    return _with_interval(value, training, _beyond(shared, own), (values.shape[1],), _spread(values))


def compare_recipes(first: Array, second: Array, design: CaseDesign | None = None, *, paired: bool) -> RecipeEstimate:
    """`second` − `first` of two recipes, from per-case values [N, n] and [N, m] of the same cases; n, m ≥ 2.

    `paired`: column i of both is of the same training seed. Raises AloeError as `estimate_recipe` does, and where the
    cases, or paired runs, are not the same in number.
    """
    _check(first)
    _check(second)
    if len(first) != len(second):
        raise AloeError(f"cases: {len(first)} of the first recipe, {len(second)} of the second; give the same cases")
    runs = (first.shape[1], second.shape[1])
    if paired:
        if len(set(runs)) > 1:
            raise AloeError(f"runs: {runs[0]} of the first recipe, {runs[1]} of the second cannot be paired")
        one = estimate_recipe(second - first, design)
        return RecipeEstimate(one.value, one.low, one.high, one.p, runs, one.spread)
    value = float(second.mean() - first.mean())
    people = design_of(len(first), design)
    of_both = _over_cases(second.mean(axis=1) - first.mean(axis=1), people)
    own = _parts(first, people)[1] + _parts(second, people)[1]
    left, right = _training(first), _training(second)
    total = left.variance + right.variance
    split = left.variance**2 / left.freedom + right.variance**2 / right.freedom
    freedom = total**2 / split if split > 0 else left.freedom + right.freedom
    return _with_interval(value, MeanVariance(total, freedom), _beyond(of_both, own), runs, None)


def case_pseudo_values(ratings: Array) -> dict[Statistic, Array]:
    """What every case contributes to the numbers of a model with ratings [N, K]: per-case values [N], by statistic.

    They are jackknife pseudo-values (`aloe_jax.benchmark.intervals.pseudo_values`): for complete ratings a case's own
    average, slope and last rating. NaN throughout where a number is undefined. Raises AloeError as `alignment_metrics`
    does.
    """
    values = checked(ratings)
    cases = len(values)
    whole, without = (
        statistics_of(alignment_level(values, weights)) for weights in (np.ones((1, cases)), left_out(cases))
    )
    return dict(zip(STATISTICS, pseudo_values(whole[0], without).T, strict=True))


def _check(values: Array) -> None:
    if values.ndim != 2 or values.shape[0] < 2 or values.shape[1] < 2:
        raise AloeError(
            f"recipe: values [cases, runs] of at least two cases and two runs are needed, found shape {values.shape}"
        )
    if not np.isfinite(values).all():
        raise AloeError("recipe: every case needs a value in every run; leave out the cases that lack one")


def _over_cases(values: Array, design: CaseDesign) -> MeanVariance:
    """Of the mean of values [N] of the cases of `design`."""
    person = np.array(design.person)
    own = np.bincount(person, values) / np.bincount(person)
    found = mean_errors(own[:, None], design)
    return MeanVariance(float(found.error[0]) ** 2, float(found.freedom[0]))


def _parts(values: Array, design: CaseDesign) -> tuple[MeanVariance, float]:
    """C of values [N, n], and E: the part of C that comes from the runs' deviations from each other, case by case."""
    runs = values.shape[1]
    own = values - values.mean(axis=1, keepdims=True)
    # A deviation from a mean of n has (n − 1)/n of the variance.
    of_one = sum(_over_cases(own[:, run], design).variance for run in range(runs)) / (runs - 1)
    return _over_cases(values.mean(axis=1), design), of_one / runs


def _training(values: Array) -> MeanVariance:
    runs = values.shape[1]
    return MeanVariance(float(values.mean(axis=0).var(ddof=1)) / runs, runs - 1)


def _beyond(shared: MeanVariance, own: float) -> MeanVariance:
    return MeanVariance(max(0.0, shared.variance - own), shared.freedom)


def _spread(values: Array) -> float:
    return float(values.mean(axis=0).std(ddof=1))


def _with_interval(
    value: float, training: MeanVariance, people: MeanVariance, runs: tuple[int, ...], spread: float | None
) -> RecipeEstimate:
    total = training.variance + people.variance
    error = math.sqrt(total)
    if total <= _NOTHING:  # all runs give the same in every case
        return RecipeEstimate(value, value, value, 1.0 if abs(value) <= math.sqrt(_NOTHING) else 0.0, runs, spread)
    weight = (training.variance / total) ** min(1.5, (1 + training.freedom) / 2)

    def critical(p: float) -> float:
        few, many = stdtrit(training.freedom, 1 - p / 2), stdtrit(people.freedom, 1 - p / 2)
        return float(weight * few + (1 - weight) * many)

    reach = critical(1 - CONFIDENCE) * error
    distance = min(abs(value) / error, critical(_LEAST_P))
    p = float(brentq(lambda p: critical(p) - distance, _LEAST_P, 1.0))
    return RecipeEstimate(value, value - reach, value + reach, p, runs, spread)
