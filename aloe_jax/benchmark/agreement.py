"""Agreement of raters who rated the same things: Krippendorff's alpha and Spearman's rank correlation."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import spearmanr

from aloe_jax.benchmark.results import StoredAgreement
from aloe_jax.benchmark.weighted import Alpha, Level


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
