"""Intervals of numbers of weighted items: a resample draws cases, each with all its items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aloe_jax.benchmark.intervals import Array, bias_corrected, left_out, resamples, studentised
from aloe_jax.benchmark.results import StoredEstimate
from aloe_jax.benchmark.weighted import WeightedStatistic


class Draws:
    """Weights of U items of some cases: as they are, without each case, and in resamples of the cases."""

    def __init__(self, cases: Sequence[str], weights: Array, bootstrap: int, seed: int) -> None:
        """`cases` name the case of each item."""
        names = {name: number for number, name in enumerate(dict.fromkeys(cases))}
        own = np.array([names[name] for name in cases], int)
        self.cases = len(names)
        self._drawn = resamples(len(names), bootstrap, seed)  # [S, N]
        # A mean of one: the weights say which items count more, not how many were rated.
        each = weights / weights.mean() if len(weights) else weights
        self._whole = each[None]
        self._without, self._samples = (draws[:, own] * each for draws in (left_out(len(names)), self._drawn))

    def correlation(self, statistic: WeightedStatistic) -> StoredEstimate:
        """A number that is biased in small samples and at most 1, such as alpha and rank correlation."""
        value, without, samples = (statistic(weights) for weights in (self._whole, self._without, self._samples))
        ends = bias_corrected(value, without[:, None], samples[:, None], -1.0, 1.0)
        return _estimate(value, ends)

    def mean(self, statistic: WeightedStatistic, least: float, most: float) -> StoredEstimate:
        """A mean of items, or a difference of such means, which is between `least` and `most`."""
        value = statistic(self._whole)
        return _estimate(value, studentised(value, statistic(self._without)[:, None], self._drawn, least, most))


def _estimate(value: Array, ends: Array) -> StoredEstimate:
    return StoredEstimate(value=value[0], low=ends[0, 0], high=ends[1, 0])
