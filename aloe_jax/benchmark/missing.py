"""What missing ratings could do to a number: its least and its most over all ratings from 1 to 5 that they may be.

Worst-case bounds (Manski 1990): they assume nothing about why a rating is missing, and are as wide as that deserves.
"""

from __future__ import annotations

import numpy as np

from aloe_jax.benchmark.case_design import Array
from aloe_jax.benchmark.results import HIGHEST, LOWEST, Statistic, StoredBounds


def level_bounds(values: Array) -> dict[Statistic, StoredBounds]:
    """Of average AL, IR and AL at the last turn of ratings [N, K], NaN = missing; nothing where none is missing.

    All three are sums of ratings with fixed weights, least where every missing rating is at the end of the scale that
    its weight asks for.
    """
    missing = np.isnan(values)
    if not missing.any():
        return {}
    cases = len(values)
    found: dict[Statistic, StoredBounds] = {}
    for name, weights in turn_weights(values.shape[1]).items():
        known = (np.where(missing, 0.0, values) * weights).sum() / cases
        share = missing.sum(axis=0) * weights / cases  # [K]
        ends = np.stack([share * LOWEST, share * HIGHEST])
        found[name] = StoredBounds(
            least=float(known + ends.min(axis=0).sum()), most=float(known + ends.max(axis=0).sum())
        )
    return found


def difference_bounds(first: Array, second: Array) -> dict[Statistic, StoredBounds]:
    """Of the differences `second` − `first` of ratings [N, K]; nothing where none is missing in either."""
    if not np.isnan(first).any() and not np.isnan(second).any():
        return {}
    known = np.where(np.isnan(first) | np.isnan(second), 0.0, second - first)
    found: dict[Statistic, StoredBounds] = {}
    for name, weights in turn_weights(first.shape[1]).items():
        least = most = (known * weights).sum() / len(first)
        for weight, left, right in zip(weights, first.T, second.T, strict=True):
            unknown = np.isnan(left) | np.isnan(right)
            lowest = np.where(np.isnan(right), LOWEST, right) - np.where(np.isnan(left), HIGHEST, left)
            highest = np.where(np.isnan(right), HIGHEST, right) - np.where(np.isnan(left), LOWEST, left)
            ends = weight / len(first) * np.array([lowest[unknown].sum(), highest[unknown].sum()])
            least, most = least + ends.min(), most + ends.max()
        found[name] = StoredBounds(least=float(least), most=float(most))
    return found


def turn_weights(turns: int) -> dict[Statistic, Array]:
    """The weights [K] of AL(k) in average AL, in IR (with two turns or more) and in AL at the last turn."""
    weights: dict[Statistic, Array] = {"average": np.full(turns, 1 / turns), "final": np.eye(turns)[-1]}
    if turns > 1:
        from_mean = np.arange(turns) - (turns - 1) / 2
        weights["ir"] = from_mean / (from_mean**2).sum()
    return weights
