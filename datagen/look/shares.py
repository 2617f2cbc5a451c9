"""Ratios over conversations with 95% intervals: those of the benchmark, by what the conversations' people share.

A person (a profile with a personality) counts with all conversations, as in `aloe_jax.benchmark.intervals`. The
interval is computed from at most `MOST` people, since the time that it takes grows with their cube; where there are
more, it is that of the first `MOST` around the ratio of all, and so wider than it could be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aloe_jax.benchmark.case_design import CaseDesign
from aloe_jax.benchmark.intervals import interval
from aloe_jax.conversation import Persona

Array = NDArray[np.float64]

MOST = 2000  # people
RESAMPLES, SEED = 2000, 0  # of people who share nothing


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


def shares(
    parts: ArrayLike, wholes: ArrayLike, personas: Sequence[Persona], least: float = 0.0, most: ArrayLike = 1.0
) -> list[Share]:
    """sum(parts) / sum(wholes) of M columns [N conversations, M], each over the people who have something in it.

    `personas` [N]: those of the conversations. Intervals are cut to `least` and `most` (a number, or one a column). The
    value is NaN where the whole is 0, and the interval where one conversation alone counts.
    """
    part, whole = np.asarray(parts, float), np.asarray(wholes, float)
    highest = np.broadcast_to(np.asarray(most, float), part.shape[1:])
    person = np.array(CaseDesign.of(personas).person, dtype=np.intp)
    people = [personas[number] for number in np.unique(person, return_index=True)[1]]
    part, whole = _by_person(part, person, len(people)), _by_person(whole, person, len(people))
    total = whole.sum(axis=0)
    value = np.divide(part.sum(axis=0), total, out=np.full(len(total), np.nan), where=total > 0)
    ends = np.full((2, len(total)), np.nan)
    alike: dict[bytes, list[int]] = {}  # columns in which the same people have something
    for column, counts in enumerate((whole > 0).T):
        if counts.any():
            alike.setdefault(counts.tobytes(), []).append(column)
    for columns in alike.values():
        rows = np.flatnonzero(whole[:, columns[0]] > 0)[:MOST]
        found, own = _interval(part[rows][:, columns], whole[rows][:, columns], [people[row] for row in rows])
        ends[:, columns] = np.clip(own - found + value[columns], least, highest[columns])
    return [
        Share(float(number), float(low), float(high), round(float(count)))
        for number, low, high, count in zip(value, *ends, total, strict=True)
    ]


def _interval(part: Array, whole: Array, people: Sequence[Persona]) -> tuple[Array, Array]:
    """Ratios [M] and intervals [2, M] of columns [U, M] with a row a person."""

    def ratios(weights: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):  # nothing is left without the only person: NaN
            return (weights @ part) / (weights @ whole)

    return interval(ratios, CaseDesign.of(people), RESAMPLES, SEED)


def _by_person(values: Array, person: NDArray[np.intp], count: int) -> Array:
    """Sums of [N, M] by person: [U, M]."""
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, person, values)
    return sums
