"""Alignment level and improvement rate: what the benchmark's ratings say about a model.

Definitions from "Aligning LLMs with Individual Preferences via Interaction" (arXiv 2410.03642):

    AL(k)   mean rating at turn k over the cases
    IR      slope b of the least-squares line a + b·k through AL(k), k = 1..K
    N-IR    the same slope after min–max normalisation of AL over k: (AL(k) − min) / (max − min)
    R²      coefficient of determination of that fit; min–max scaling is affine and leaves it unchanged

Three cases that the paper leaves open are settled here. A missing rating leaves its turn's mean. A turn
without any rating has no AL(k) and takes no part in the average, in the normalisation or in the fit. Where AL
is constant, and where fewer than two turns are left, N-IR and R² are undefined: None, never 0.

Intervals are those of `aloe_jax.benchmark.intervals`, by what the people of the cases share. With a single person there
is none. N-IR and R² describe a trend: where AL is nearly flat they are those of its noise, and no interval of theirs
that was tried covers the truth (in simulations of 100 cases from 5% to 85% where IR is two to four standard errors from
0). They get an interval only where IR is at least `CLEAR` times the half width of its own interval from 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from aloe_jax.benchmark.case_design import CaseDesign, design_of
from aloe_jax.benchmark.intervals import (
    Array,
    bias_corrected,
    design_intervals,
    half_widths,
    jackknife_errors,
    left_out,
    resamples,
)
from aloe_jax.benchmark.missing import level_bounds
from aloe_jax.benchmark.results import HIGHEST, LOWEST, Level, StoredEstimate
from aloe_jax.errors import AloeError

CLEAR = 3.0  # half widths of its interval that IR is from 0 where N-IR and R² have intervals
_FLAT = 1e-9  # an AL that varies by less than this is constant: means differ by rounding alone


def alignment_metrics(
    ratings: ArrayLike, bootstrap: int = 2000, seed: int = 0, design: CaseDesign | None = None
) -> Level:
    """Metrics of `ratings` [N cases, K turns] on the scale 1–5, NaN = missing.

    `design` says who the cases are of; without it every case is of a person of its own. `bootstrap` resamples of the
    people, drawn from `seed`, give intervals where people are distinct. Raises AloeError for another shape, for no
    cases or turns, for a rating outside 1–5, and for a `design` of another number of cases.
    """
    values = checked(ratings)
    cases, turns = values.shape
    rated = np.flatnonzero(~np.isnan(values).all(axis=1))
    people = design_of(cases, design).subset(rated.tolist())
    al = alignment_level(values, np.ones((1, cases)))
    without = alignment_level(values[rated], people.by_case(left_out(people.people)))
    points, others = summaries(al), summaries(without)
    linear, linear_without = (np.concatenate([one, statistics_of(one)[:, :2]], axis=1) for one in (al, without))
    least = np.array([*[LOWEST] * (turns + 1), LOWEST - HIGHEST])
    most = np.array([*[HIGHEST] * (turns + 1), HIGHEST - LOWEST])
    low, high = design_intervals(linear[0], linear_without, people, bootstrap, seed, least, most)
    half = half_widths(jackknife_errors(points["ir"], others["ir"][:, None], people))[0]
    clear = abs(points["ir"][0]) >= CLEAR * half  # not where either is NaN
    weights = people.by_case(resamples(people.people, bootstrap, seed)) if clear else np.empty((0, len(rated)))
    spreads = summaries(alignment_level(values[rated], weights))

    def curved(name: str, least: float) -> StoredEstimate:
        point, other, spread = points[name], others[name][:, None], spreads[name][:, None]
        ends = bias_corrected(point, other, spread, least, 1.0, people)
        return StoredEstimate(value=point[0], low=ends[0, 0], high=ends[1, 0])

    return Level(
        cases=cases,
        turns=turns,
        al=al[0].tolist(),
        al_low=low[:turns].tolist(),
        al_high=high[:turns].tolist(),
        average=StoredEstimate(value=points["average"][0], low=low[turns], high=high[turns]),
        ir=StoredEstimate(value=points["ir"][0], low=low[turns + 1], high=high[turns + 1]),
        n_ir=curved("n_ir", -1.0),
        r2=curved("r2", 0.0),
        coverage_by_turn=np.mean(~np.isnan(values), axis=0).tolist(),
        coverage=float(np.mean(~np.isnan(values))),
        bounds=level_bounds(values),
    )


def checked(ratings: ArrayLike) -> Array:
    """Ratings as float64 [N, K]. Raises AloeError as `alignment_metrics` does."""
    try:
        values = np.asarray(ratings, dtype=np.float64)
    except (TypeError, ValueError):
        raise AloeError("ratings: expected numbers [cases, turns], NaN where missing") from None
    if values.ndim != 2 or 0 in values.shape:
        raise AloeError(f"ratings: expected [cases, turns], at least one of each, found shape {values.shape}")
    wrong = ~np.isnan(values) & ~((values >= LOWEST) & (values <= HIGHEST))
    if wrong.any():
        case, turn = np.argwhere(wrong)[0]
        raise AloeError(
            f"ratings: case {case}, turn {turn + 1} has {values[case, turn]:g}; ratings are between 1 and 5 "
            "and NaN stands for a missing one"
        )
    return values


def alignment_level(values: Array, weights: Array) -> Array:
    """AL [S, K] of values [N, K] under S weightings of the cases [S, N]; NaN where a turn has no rating."""
    rated = ~np.isnan(values)
    count = weights @ rated
    total = weights @ np.where(rated, values, 0.0)
    return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)


def statistics_of(al: Array) -> Array:
    """What models are compared by, of AL [S, K]: average, IR and AL at the last turn, [S, 3] as in `STATISTICS`."""
    found = summaries(al)
    return np.stack([found["average"], found["ir"], al[:, -1]], axis=1)


def summaries(al: Array) -> dict[str, Array]:
    """Average, IR, N-IR and R² of AL [S, K], each [S]: closed-form least squares over the rated turns."""
    rated = ~np.isnan(al)
    count = rated.sum(axis=1)
    safe = np.maximum(count, 1)
    level = np.where(rated, al, 0.0)
    average = np.where(count > 0, level.sum(axis=1) / safe, np.nan)
    turn = np.where(rated, np.arange(1.0, al.shape[1] + 1), 0.0)
    from_mean_turn = np.where(rated, turn - (turn.sum(axis=1) / safe)[:, None], 0.0)
    from_mean_level = np.where(rated, al - average[:, None], 0.0)
    s_kk = (from_mean_turn**2).sum(axis=1)
    s_ka = (from_mean_turn * from_mean_level).sum(axis=1)
    s_aa = (from_mean_level**2).sum(axis=1)
    span = np.where(rated, al, -np.inf).max(axis=1) - np.where(rated, al, np.inf).min(axis=1)
    fitted = count >= 2
    shaped = fitted & (span > _FLAT)  # otherwise there is nothing to normalise or to explain
    slope = np.where(fitted, s_ka / np.where(fitted, s_kk, 1.0), np.nan)
    return {
        "average": average,
        "ir": slope,
        "n_ir": np.where(shaped, slope / np.where(shaped, span, 1.0), np.nan),
        "r2": np.where(shaped, s_ka**2 / np.where(shaped, s_kk * s_aa, 1.0), np.nan),
    }
