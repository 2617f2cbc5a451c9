"""Means with intervals that know that conversations share people.

Conversations of one profile are alike, and so are those of one personality, which is combined with many profiles: the
two are crossed. The variance of a ratio of sums, linearised, is that of its residuals summed by profile, plus by
personality, less by persona (profile and personality together), which both others hold: the two-way cluster-robust
variance of Cameron, Gelbach and Miller (2011, doi 10.1198/jbes.2010.07136), each part times G / (G - 1) for its G
clusters. Where it comes out smaller than one of the two alone, as it can for few clusters, the larger of these is
taken. The interval is the ratio plus and minus Student's quantile with one degree of freedom fewer than there are
clusters of the kind that has fewer (of two or more).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from aloe_jax.conversation import Conversation

Array = NDArray[np.float64]
TAIL = 0.025  # of a 95% interval


@dataclass(frozen=True)
class Share:
    """A ratio of sums over conversations, such as a share of pairs, with its 95% interval; NaN where undefined."""

    value: float
    low: float
    high: float
    count: int  # what the ratio is over: pairs, turns or conversations

    def written(self) -> str:
        """In per cent, as in `58.1% (56.9% to 59.3%)`; a dash where there is nothing to count."""
        if math.isnan(self.value):
            return "\u2013"
        ends = "" if math.isnan(self.low) else f" ({self.low:.1%} to {self.high:.1%})"
        return f"{self.value:.1%}{ends}"


@dataclass(frozen=True)
class Clusters:
    """By conversation: the number of its profile, of its personality, and of the two together; int arrays [N]."""

    profile: NDArray[np.intp]
    personality: NDArray[np.intp]
    persona: NDArray[np.intp]

    @classmethod
    def of(cls, conversations: Sequence[Conversation]) -> Clusters:
        """By the texts of their personas, which converted data has under many ids."""
        everyone = [tree.persona for tree in conversations]
        return cls.by([one.profile for one in everyone], [one.personality for one in everyone])

    @classmethod
    def by(cls, profiles: Sequence[object], personalities: Sequence[object]) -> Clusters:
        """Conversations in the order of both."""
        return cls(
            _numbered(profiles), _numbered(personalities), _numbered(list(zip(profiles, personalities, strict=True)))
        )


def ratio(part: ArrayLike, whole: ArrayLike, clusters: Clusters, least: float = 0.0, most: float = 1.0) -> Share:
    """sum(part) / sum(whole) over conversations [N], each with its `part` and `whole`, as the module says.

    The interval is cut to `least` and `most`. It is NaN where all conversations are of one persona, and the value
    where `whole` is nothing.
    """
    parts, wholes = np.asarray(part, float), np.asarray(whole, float)
    total = float(wholes.sum())
    if not total:
        return Share(math.nan, math.nan, math.nan, 0)
    value = float(parts.sum()) / total
    used = wholes > 0
    residuals = (parts - value * wholes)[used] / total
    ways = [way[used] for way in (clusters.profile, clusters.personality, clusters.persona)]
    counts = [len(np.unique(way)) for way in ways]
    several = [count for count in counts[:2] if count > 1]
    if not several:
        return Share(value, math.nan, math.nan, round(total))
    by_profile, by_personality, by_persona = (_variance(residuals, way) for way in ways)
    variance = max(by_profile + by_personality - by_persona, by_profile, by_personality)
    reach = float(stdtrit(min(several) - 1, 1 - TAIL)) * math.sqrt(variance)
    return Share(value, max(least, value - reach), min(most, value + reach), round(total))


def _variance(residuals: Array, way: NDArray[np.intp]) -> float:
    """Of their sum, where those of one cluster depend on each other; 0 for a single cluster, which says nothing."""
    sums = np.bincount(way, weights=residuals)
    count = len(np.unique(way))
    return float((sums**2).sum()) * count / (count - 1) if count > 1 else 0.0


def _numbered(keys: Sequence[object]) -> NDArray[np.intp]:
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.intp)
