"""Agreement of raters who rated the same things: Krippendorff's alpha and Spearman's rank correlation."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from aloe_jax.benchmark.intervals import Array

Level = Literal["nominal", "ordinal", "interval"]


@dataclass(frozen=True)
class Agreement:
    """How far raters agree; NaN where it is undefined (one rater, or nothing rated by two)."""

    raters: int
    units: int  # rated by two raters or more
    alpha: float  # Krippendorff's, ordinal: 1 is perfect, 0 what chance gives
    spearman: float  # mean over all pairs of raters


def agreement(ratings: ArrayLike) -> Agreement:
    """Agreement of `ratings` [raters, units], NaN = not rated."""
    values = np.asarray(ratings, np.float64)
    shared = (~np.isnan(values)).sum(axis=0) >= 2
    return Agreement(len(values), int(shared.sum()), krippendorff_alpha(values), mean_spearman(values))


def krippendorff_alpha(ratings: ArrayLike, level: Level = "ordinal") -> float:
    """Krippendorff's alpha of `ratings` [raters, units], NaN = not rated (Krippendorff 2011, "Computing
    Krippendorff's Alpha-Reliability").

    Units with fewer than two ratings do not count. NaN where nothing is left, or where all ratings are equal:
    then there is no variation that raters could agree about.
    """
    values = np.asarray(ratings, np.float64)
    rated = ~np.isnan(values)
    values, rated = values[:, rated.sum(axis=0) >= 2], rated[:, rated.sum(axis=0) >= 2]
    scale = np.unique(values[rated])
    if len(scale) < 2:
        return float("nan")
    counts = np.stack([(values == value).sum(axis=0) for value in scale], axis=1).astype(float)  # [units, values]
    each = counts.sum(axis=1)
    # Pairs of ratings of one unit by two raters, every unit weighing as many ratings as it has.
    coincidences = counts.T @ (counts / (each - 1)[:, None]) - np.diag((counts / (each - 1)[:, None]).sum(axis=0))
    totals = coincidences.sum(axis=1)
    distances = _distances(scale, totals, level)
    observed = (coincidences * distances).sum()
    expected = (np.outer(totals, totals) * distances).sum() / (totals.sum() - 1)
    return float(1 - observed / expected)


def _distances(scale: Array, totals: Array, level: Level) -> Array:
    """Squared distances of the values, [values, values]."""
    if level == "nominal":
        return 1.0 - np.eye(len(scale))
    if level == "interval":
        return np.subtract.outer(scale, scale) ** 2
    # Ordinal: how many ratings lie between two values, half of those at both ends counted.
    middle = np.cumsum(totals) - totals / 2
    return np.subtract.outer(middle, middle) ** 2


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Rank correlation over the units that both rated, ties at their mean rank; NaN where one side is constant."""
    left, right = np.asarray(first, np.float64), np.asarray(second, np.float64)
    both = ~(np.isnan(left) | np.isnan(right))
    if both.sum() < 2:
        return float("nan")
    a, b = (ranks - ranks.mean() for ranks in (_ranks(left[both]), _ranks(right[both])))
    norm = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / norm) if norm > 0 else float("nan")


def mean_spearman(ratings: ArrayLike) -> float:
    """Mean of `spearman` over all pairs of the raters of `ratings` [raters, units], pairs without one left out."""
    found = [spearman(a, b) for a, b in itertools.combinations(np.asarray(ratings, np.float64), 2)]
    defined = [value for value in found if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def _ranks(values: Array) -> Array:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
