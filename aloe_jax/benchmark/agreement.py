"""Agreement of raters who rated the same things: Krippendorff's alpha and Spearman's rank correlation.

Each is there for raters alone and for units that count more or less than once. Weights stand for two things: how often
a resample drew a unit's case, and for how many replies of a run a unit of a sample stands. A weight of two is the unit
given twice. What is weighted takes S sets of weights [S, U] at once and returns [S].
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import spearmanr

from aloe_jax.benchmark.intervals import Array
from aloe_jax.benchmark.results import StoredAgreement

WeightedStatistic = Callable[[Array], Array]  # of weights [S, U]: values [S]
Level = Literal["nominal", "ordinal", "interval"]  # of measurement


def agreement(ratings: ArrayLike) -> StoredAgreement:
    """Agreement of `ratings` [raters, units], NaN = not rated."""
    values = np.asarray(ratings, np.float64)
    shared = (~np.isnan(values)).sum(axis=0) >= 2
    return StoredAgreement(
        raters=len(values), units=int(shared.sum()), alpha=krippendorff_alpha(values), spearman=mean_spearman(values)
    )


def krippendorff_alpha(ratings: ArrayLike, level: Level = "ordinal") -> float:
    """Krippendorff's alpha of `ratings` [raters, units], NaN = not rated; see `Alpha`."""
    values = np.asarray(ratings, np.float64)
    return float(Alpha(values, level)(np.ones((1, values.shape[1])))[0])


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Rank correlation over the units that both rated, ties at their mean rank; NaN where one side is constant."""
    values = np.asarray([first, second], np.float64)
    left, right = values[:, ~np.isnan(values).any(axis=0)]
    if len(left) < 2 or (left == left[0]).all() or (right == right[0]).all():
        return float("nan")
    return float(spearmanr(left, right).statistic)


def mean_spearman(ratings: ArrayLike) -> float:
    """Mean of `spearman` over all pairs of the raters of `ratings` [raters, units], pairs without one left out."""
    found = [spearman(a, b) for a, b in itertools.combinations(np.asarray(ratings, np.float64), 2)]
    defined = [value for value in found if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


# ---------------------------------------------------------------- weighted units


class Alpha:
    """Krippendorff's alpha of ratings [R raters, U units], NaN = not rated (Krippendorff 2011, "Computing
    Krippendorff's Alpha-Reliability").

    Units with fewer than two ratings do not count.
    """

    def __init__(self, ratings: Array, level: Level = "ordinal") -> None:
        self._level = level
        rated = ~np.isnan(ratings)
        self._shared = np.flatnonzero(rated.sum(axis=0) >= 2)
        values, rated = ratings[:, self._shared], rated[:, self._shared]
        self._scale = scale = np.unique(values[rated])
        counts = (values[:, :, None] == scale).sum(axis=0).astype(float)  # [U, V]
        pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(len(scale))
        self._pairs = pairs / (rated.sum(axis=0) - 1)[:, None, None]  # [U, V, V]

    def __call__(self, weights: Array) -> Array:
        """[S]; NaN where all ratings are equal (there is no variation to agree about) or no two raters share a unit."""
        coincidences = np.tensordot(weights[:, self._shared], self._pairs, axes=1)  # [S, V, V]
        totals = coincidences.sum(axis=2)
        distances = self._distances(totals)
        observed = (coincidences * distances).sum(axis=(1, 2))
        expected = (totals[:, :, None] * totals[:, None, :] * distances).sum(axis=(1, 2))
        rest = totals.sum(axis=1) - 1
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(expected > 0, 1 - observed * rest / expected, np.nan)

    def _distances(self, totals: Array) -> Array:
        """Squared distances of the values, [S or 1, V, V]."""
        if self._level == "nominal":
            return 1.0 - np.eye(len(self._scale))[None]
        # Ordinal: how many ratings are between two values, half of those at both ends counted.
        position = self._scale[None] if self._level == "interval" else np.cumsum(totals, axis=1) - totals / 2
        return (position[:, :, None] - position[:, None, :]) ** 2


class Spearman:
    """Rank correlation of two raters' ratings [U], NaN = not rated; ties at their mean rank."""

    def __init__(self, first: Array, second: Array) -> None:
        self._both = np.flatnonzero(~(np.isnan(first) | np.isnan(second)))
        self._levels = [np.unique(values[self._both], return_inverse=True)[1] for values in (first, second)]

    def __call__(self, weights: Array) -> Array:
        """[S]; NaN where one side is constant or fewer than two units count."""
        own = weights[:, self._both]
        with np.errstate(invalid="ignore", divide="ignore"):
            share = own / own.sum(axis=1, keepdims=True)
            left, right = (_centred(share, levels) for levels in self._levels)
            spread = (share * left**2).sum(axis=1) * (share * right**2).sum(axis=1)
            return np.where(spread > 1e-15, (share * left * right).sum(axis=1) / np.sqrt(spread), np.nan)


def _centred(share: Array, levels: np.ndarray) -> Array:
    """The units' ranks [S, U] as shares of all units, less their mean."""
    if not levels.size:
        return np.zeros_like(share)
    mass = share @ np.eye(int(levels.max()) + 1)[levels]  # [S, V]
    ranks = (np.cumsum(mass, axis=1) - mass / 2)[:, levels]
    return ranks - (share * ranks).sum(axis=1, keepdims=True)


def pairwise_spearman(ratings: Array) -> Average:
    """Mean rank correlation over all pairs of the raters of `ratings` [R, U]."""
    return Average([Spearman(*pair) for pair in itertools.combinations(ratings, 2)])


class Average:
    """The mean of some statistics, those that are undefined left out."""

    def __init__(self, statistics: Sequence[WeightedStatistic]) -> None:
        self._statistics = statistics

    def __call__(self, weights: Array) -> Array:
        """[S]; NaN where none of them is defined."""
        values = np.stack([np.full(len(weights), np.nan), *(one(weights) for one in self._statistics)])
        there = ~np.isnan(values)
        count = there.sum(axis=0)
        return np.where(count > 0, np.where(there, values, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


class WeightedMean:
    """Mean of values [U], NaN = left out."""

    def __init__(self, values: Array) -> None:
        self._there = np.flatnonzero(~np.isnan(values))
        self._values = values[self._there]

    def __call__(self, weights: Array) -> Array:
        """[S]; NaN where nothing counts."""
        own = weights[:, self._there]
        total = own.sum(axis=1)
        return np.where(total > 0, own @ self._values / np.where(total > 0, total, 1.0), np.nan)
