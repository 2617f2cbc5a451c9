"""N-IR and R²: given with an interval only where it covers, by simulation."""

import numpy as np
import pytest

from aloe_jax.benchmark.alignment import alignment_metrics, summaries
from aloe_jax.benchmark.case_design import CaseDesign
from tests.benchmark.crossed_ratings import TURNS, crossed, effects, levels, rated
from tests.benchmark.test_shared_parts import within

TURN = np.arange(TURNS)
CURVES = {
    "flat": np.full(TURNS, 3.0),
    "just rising": 3 + 0.02 * TURN,
    "rising": 2.6 + 0.08 * TURN,
    "steep": 2 + 0.2 * TURN,
    "levelling off": 2.5 + 1.2 * (1 - np.exp(-TURN / 2)),
    "a hump": 3 + 0.3 * np.sin(TURN / 9 * np.pi) + 0.02 * TURN,
}


def given_and_covered(curve, design, deviations, count):
    """In how many simulations there is an interval, and how many of them hold the truth: of N-IR, of R²."""
    random, true = np.random.default_rng(4), summaries(levels(curve, deviations)[None])
    given, hits = 0, np.zeros(2)
    for _ in range(count):
        found = alignment_metrics(rated(random, curve + effects(random, design, deviations)), 300, 0, design)
        if found.n_ir.low is not None:
            given += 1
            hits += [one.low <= true[name][0] <= one.high for one, name in ((found.n_ir, "n_ir"), (found.r2, "r2"))]
        else:
            assert found.r2.low is None and found.n_ir.value is not None
    return given, hits


def test_a_flat_level_has_no_interval_of_its_shape_and_a_steep_one_has():
    for name, expected in (("flat", 0), ("steep", 40)):
        given, hits = given_and_covered(CURVES[name], CaseDesign.distinct(100), (0.0, 0.0), 40)
        assert given == expected and (hits >= 0.8 * given).all()


@pytest.mark.soak
@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("deviations", [None, (0.15, 0.10), (0.25, 0.35)])
def test_intervals_of_the_shape_of_the_trend_cover_where_they_are_given(name, deviations):
    """At most 7% of benchmarks have an interval that misses; of a straight rise it covers at least 90%, however few
    benchmarks have one, and so it does of other curves where most benchmarks have one.

    Where few have one, those whose trend came out steepest have it, and of a curve that is no line it covers less: of
    R² of a curve that levels off 82% of the 11% that have one.
    """
    count = 600
    design = CaseDesign.distinct(100) if deviations is None else crossed()
    given, hits = given_and_covered(CURVES[name], design, deviations or (0.0, 0.0), count)
    if name in ("flat", "just rising", "a hump"):
        assert given < 0.05 * count
    assert within((given - hits) / count, 0.0, 0.07, count), (given, hits)
    if name in ("rising", "steep") or given > count / 2:
        assert given and within(hits / given, 0.90, 1.0, given), (given, hits / given)
