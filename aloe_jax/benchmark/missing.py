"""What missing ratings could do to a number: its least and its most over all ratings from 1 to 5 that they may be.

Worst-case bounds (Manski 1990): they assume nothing about why a rating is missing, and are as wide as that deserves. A
reply is rated by the mean of its votes; where some of them are missing, bounds are over these votes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from aloe_jax.benchmark.case_design import Array
from aloe_jax.benchmark.results import HIGHEST, LOWEST, Statistic, StoredBounds


class RatingRange(NamedTuple):
    """The least and the most that every rating [N, K] may be: the rating twice where no vote is missing."""

    least: Array
    most: Array

    @classmethod
    def of(cls, ratings: Array) -> RatingRange:
        """Of ratings [N, K] that are there as a whole or, NaN, not at all."""
        missing = np.isnan(ratings)
        return cls(np.where(missing, LOWEST, ratings), np.where(missing, HIGHEST, ratings))


def level_bounds(ratings: Array | RatingRange) -> dict[Statistic, StoredBounds]:
    """Of average AL, IR and AL at the last turn of ratings [N, K], NaN = missing; nothing where none is missing."""
    return _bounds(_range(ratings))


def difference_bounds(first: Array | RatingRange, second: Array | RatingRange) -> dict[Statistic, StoredBounds]:
    """Of the differences `second` − `first` of ratings [N, K]; nothing where none is missing in either."""
    one, other = _range(first), _range(second)
    return _bounds(RatingRange(other.least - one.most, other.most - one.least))


def _range(ratings: Array | RatingRange) -> RatingRange:
    return ratings if isinstance(ratings, RatingRange) else RatingRange.of(ratings)


def _bounds(values: RatingRange) -> dict[Statistic, StoredBounds]:
    """All three are sums with fixed weights, least where every value is at the end that its weight asks for."""
    if (values.least == values.most).all():
        return {}
    cases, turns = values.least.shape
    found: dict[Statistic, StoredBounds] = {}
    for name, weights in turn_weights(turns).items():
        ends = np.stack([values.least.sum(axis=0), values.most.sum(axis=0)]) * weights / cases  # [2, K]
        found[name] = StoredBounds(least=float(ends.min(axis=0).sum()), most=float(ends.max(axis=0).sum()))
    return found


def turn_weights(turns: int) -> dict[Statistic, Array]:
    """The weights [K] of AL(k) in average AL, in IR (with two turns or more) and in AL at the last turn."""
    weights: dict[Statistic, Array] = {"average": np.full(turns, 1 / turns), "final": np.eye(turns)[-1]}
    if turns > 1:
        from_mean = np.arange(turns) - (turns - 1) / 2
        weights["ir"] = from_mean / (from_mean**2).sum()
    return weights
