"""Which difference between two models a design of the benchmark detects, by simulation of its own test."""

from __future__ import annotations

import numpy as np

from aloe_jax.benchmark.case_design import CaseDesign
from aloe_jax.benchmark.intervals import student_quantile
from aloe_jax.benchmark.shared_parts import mean_errors


def detectable_difference(
    design: CaseDesign,
    profile: float,
    personality: float,
    rest: float,
    power: float = 0.8,
    draws: int = 4000,
    seed: int = 0,
) -> float:
    """The least true difference, in rating points, that the two-sided test at 5% finds with probability `power`.

    `profile`, `personality` and `rest` are standard deviations of the difference of two models, whose effects are
    normal: between profiles, between personalities, and between people for everything else (for average AL, the noise
    of a person's mean included). Of distinct people the test is Student's, which the permutation test equals but for
    rounding.
    """
    random = np.random.default_rng(seed)
    values = random.normal(0, rest, (design.people, draws))
    for part, deviation in ((design.profile, profile), (design.personality, personality)):
        values += random.normal(0, deviation, (max(part) + 1, draws))[list(part)]
    error, freedom = mean_errors(values, design)
    # A draw rejects once the difference lifts its mean beyond what it takes; rejections of the wrong sign do not count.
    needed = student_quantile(freedom) * error - values.mean(axis=0)
    return float(np.quantile(needed, power))
