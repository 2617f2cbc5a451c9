"""Means in the making: sums with their weights, which add up over parts of a batch as means would not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aloe_jax.training.logprobs import Scores


class Mean(NamedTuple):
    """total / weight, both scalars, or both [K] for one mean a turn."""

    total: jax.Array
    weight: jax.Array


class Largest(Mean):
    """The largest value so far as `total`, of weight 1: of two of them the larger one counts, not the sum."""


Totals = dict[str, Mean]
# (scores, batch) -> sums with their weights, of which "loss" is minimised.
Objective = Callable[[Scores, Mapping[str, jax.Array]], Totals]


def add(one: Totals, other: Totals) -> Totals:
    """The totals of two parts together. Both hold the same names; ValueError otherwise."""
    if one.keys() != other.keys():
        raise ValueError(f"totals of {sorted(one)} and {sorted(other)}")
    return {name: _joined(value, other[name]) for name, value in one.items()}


def _joined(one: Mean, other: Mean) -> Mean:
    if isinstance(one, Largest):
        return Largest(jnp.maximum(one.total, other.total), jnp.maximum(one.weight, other.weight))
    return Mean(one.total + other.total, one.weight + other.weight)


def divided(total: jax.Array, weight: jax.Array) -> jax.Array:
    """The mean, 0 where nothing counts."""
    return total / jnp.where(weight > 0, weight, 1.0)


def read(totals: Mapping[str, Mean]) -> dict[str, float]:
    """The means as numbers, fetched to the host; what has no weight is left out.

    An array of means by turn, such as "margin/turn", becomes "margin/turn_01" and so on; beside "nll" comes
    "perplexity", its exponential.
    """
    values: dict[str, float] = {}
    for name, (total, weight) in jax.device_get(dict(totals)).items():
        if np.ndim(total) == 0:
            parts = [(name, total, weight)]
        else:
            parts = [(f"{name}_{k:02d}", *part) for k, part in enumerate(zip(total, weight, strict=True), start=1)]
        values.update((each, float(sum_) / float(over)) for each, sum_, over in parts if over)
    if "nll" in values:
        values["perplexity"] = perplexity(values["nll"])
    return values


def perplexity(nll: float) -> float:
    """exp(nll), but for what would be infinite, which JSON has no number for."""
    return math.exp(min(nll, 700.0))
