"""Length-controlled AL: what would be left of the differences between models if all replies were equally long.

The rating r of the reply of model m in case c at turn k, of x = log(1 + its words), is taken for

    r[m, c, k] = a[m, k] + d[m, c] + b · x[m, c, k] + error

with an effect of every turn of a model (a) and one of every dialogue (d), and one slope b for all models together. So
b comes from replies of the same dialogue that are longer or shorter than that model's replies at that turn are
elsewhere: whether a model is better, or knows its user better at later turns, does not enter it. It is estimated by
least squares (Frisch & Waugh 1933: residuals of r on residuals of x, both after the effects). Its interval is Student's
t with the sandwich variance (Liang & Zeger 1986): what every person, over all dialogues with it, has in the slope's
error is added up, and the variance of that sum follows from what the people share, as everywhere
(`aloe_jax.benchmark.shared_parts`). Of distinct people it is the variance clustered by person.

    length-controlled AL of m = mean over k of [ AL(k) - b · (mean of x[m, ·, k] - mean of x over all models) ]

It says what a judge makes of length, not whether that is wrong: where longer replies are better replies, because they
say more, taking length out takes that with it. It extrapolates where two models' replies have no lengths in common, one
slope stands for all models and lengths, and within a dialogue replies may be longer because the user gave more to
answer. So it stands beside AL, never in its place, and is not tested.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aloe_jax.benchmark.agreement import spearman
from aloe_jax.benchmark.case_design import CaseDesign
from aloe_jax.benchmark.intervals import Array, half_widths
from aloe_jax.benchmark.results import Case, Number, StoredEstimate, ratings_of_cases
from aloe_jax.benchmark.shared_parts import mean_errors
from aloe_jax.conversation import Persona

_NOTHING = 1e-9  # variation below this is rounding


@dataclass(frozen=True)
class Lengths:
    """One model's ratings and words [N cases, K turns], NaN = missing; row n is of `personas[n]`."""

    personas: Sequence[Persona]
    ratings: Array
    words: Array


@dataclass(frozen=True)
class LengthControlledAL:
    """A model's length-controlled average AL, and the two values that it has where b is at the ends of its interval.

    `correlation` is the rank correlation (Spearman) of rating and words over all replies of the model, `words` their
    mean length.
    """

    average: StoredEstimate
    correlation: Number
    words: Number


@dataclass(frozen=True)
class LengthControl:
    """The slope b, in rating points per unit of log(1 + words), with its 95% interval; and the models by name."""

    slope: Number
    low: Number
    high: Number
    models: Mapping[str, LengthControlledAL]

    def per_doubling(self) -> StoredEstimate:
        """What twice the words add to a rating, where replies are not very short: b · log 2."""
        value, low, high = (None if one is None else one * math.log(2) for one in (self.slope, self.low, self.high))
        return StoredEstimate(value=value, low=low, high=high)


def lengths_of(cases: Sequence[Case], turns: int) -> Lengths:
    """Ratings and words of one model's dialogues; a reply without a rating counts as missing."""
    ratings = ratings_of_cases(cases, turns)
    words = np.full(ratings.shape, np.nan)
    for row, case in enumerate(cases):
        words[row, : len(case.turns)] = [one.words for one in case.turns[:turns]]
    return Lengths([case.persona for case in cases], ratings, np.where(np.isnan(ratings), np.nan, words))


def control_length(models: Mapping[str, Lengths]) -> LengthControl:
    """Length-controlled AL of models that the same judges rated, by name.

    Undefined (None) where no reply is longer or shorter than others after the effects, and for a model without ratings.
    """
    logs = {name: np.log1p(own.words) for name, own in models.items()}
    scores: dict[Persona, float] = {}  # its part of the sum of residuals' products
    parts = []
    for name, own in models.items():
        x, r = _within(logs[name]), _within(own.ratings)
        parts.append((own.personas, x, r))
    size = sum(float(np.nansum(x**2)) for _, x, _ in parts)
    if size <= _NOTHING:
        slope = low = high = None
    else:
        slope = sum(float(np.nansum(x * r)) for _, x, r in parts) / size
        for personas, x, r in parts:
            for persona, part in zip(personas, np.nansum(x * (r - slope * x), axis=1), strict=True):
                scores[persona] = scores.get(persona, 0.0) + float(part)
        low = high = None
        if (reach := _half_width(scores)) is not None:
            low, high = slope - reach / size, slope + reach / size
    everywhere = np.concatenate([log[~np.isnan(log)] for log in logs.values()] or [np.empty(0)])
    middle = float(everywhere.mean()) if len(everywhere) else 0.0
    found = {name: _controlled(own, logs[name], middle, (slope, low, high)) for name, own in models.items()}
    return LengthControl(slope, low, high, found)


def _half_width(scores: Mapping[Persona, float]) -> Number:
    """Half the width of the 95% interval of the sum of scores; None with fewer than two people."""
    design = CaseDesign.of([*scores])
    if design.people < 2:
        return None
    of_people = np.bincount(np.array(design.person), [*scores.values()])
    return float(design.people * half_widths(mean_errors(of_people[:, None], design))[0])


def _controlled(own: Lengths, logs: Array, middle: float, slopes: tuple[Number, Number, Number]) -> LengthControlledAL:
    rated = ~np.isnan(own.ratings)
    some = rated.any(axis=0)  # turns
    if not some.any():
        return LengthControlledAL(StoredEstimate(value=None, low=None, high=None), None, None)
    average = float(np.nanmean(own.ratings[:, some], axis=0).mean())
    further = float(np.nanmean(logs[:, some], axis=0).mean()) - middle
    value, *ends = (None if slope is None else average - slope * further for slope in slopes)
    known = sorted(end for end in ends if end is not None)
    low, high = known if len(known) == 2 else (None, None)
    correlation = spearman(own.ratings[rated], own.words[rated])
    return LengthControlledAL(
        StoredEstimate(value=value, low=low, high=high),
        None if math.isnan(correlation) else correlation,
        float(own.words[rated].mean()),
    )


def _within(values: Array) -> Array:
    """What is left of values [N, K], NaN = missing, after the effects of rows and columns, by least squares."""
    rated = ~np.isnan(values)
    if rated.all():
        return values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    rows, columns = np.nonzero(rated)
    design = np.zeros((len(rows), sum(values.shape)))
    design[np.arange(len(rows)), rows] = 1
    design[np.arange(len(rows)), values.shape[0] + columns] = 1
    left = np.full(values.shape, np.nan)
    if len(rows):
        fitted, *_ = np.linalg.lstsq(design, values[rated], rcond=None)
        left[rated] = values[rated] - design @ fitted
    return left
