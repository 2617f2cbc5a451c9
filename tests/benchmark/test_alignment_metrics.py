import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aloe_jax.benchmark.alignment import alignment_metrics
from aloe_jax.errors import AloeError

RATINGS = st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0, np.nan])
TABLES = st.tuples(st.integers(1, 8), st.integers(1, 7)).flatmap(lambda shape: arrays(float, shape, elements=RATINGS))


def polyfit(al):
    """Slope and R² by numpy's own least squares, over the turns that have a mean."""
    rated = ~np.isnan(al)
    k, y = np.arange(1, len(al) + 1)[rated], al[rated]
    slope, intercept = np.polyfit(k, y, 1)
    residual = y - (slope * k + intercept)
    return slope, 1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum()


@given(TABLES)
@settings(max_examples=150, deadline=None)
def test_agrees_with_the_definitions(ratings):
    found = alignment_metrics(ratings, bootstrap=20)
    al = np.array([column[~np.isnan(column)].mean() if (~np.isnan(column)).any() else np.nan for column in ratings.T])
    np.testing.assert_allclose(np.array(found.al, float), al)
    rated = al[~np.isnan(al)]
    assert found.coverage == pytest.approx(np.mean(~np.isnan(ratings)))
    if len(rated):
        assert found.average.value == pytest.approx(rated.mean())
    else:
        assert found.average.value is None
    if len(rated) < 2:
        assert [found.ir.value, found.n_ir.value, found.r2.value] == [None] * 3
    elif np.ptp(rated) < 1e-9:
        assert found.ir.value == pytest.approx(0.0, abs=1e-9)
        assert [found.n_ir.value, found.r2.value] == [None] * 2
    else:
        slope, r2 = polyfit(al)
        normalised_slope, normalised_r2 = polyfit((al - rated.min()) / np.ptp(rated))
        assert found.ir.value == pytest.approx(slope, abs=1e-9)
        assert found.n_ir.value == pytest.approx(normalised_slope, abs=1e-9)
        assert found.r2.value == pytest.approx(r2, abs=1e-9)
        assert found.r2.value == pytest.approx(normalised_r2, abs=1e-9)
        assert 0 <= found.r2.value <= 1 + 1e-12


@given(TABLES, st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_intervals_are_ordered_and_repeatable(ratings, seed):
    first, second = (alignment_metrics(ratings, bootstrap=50, seed=seed).model_dump() for _ in range(2))
    assert first == second
    for name in ("average", "ir", "n_ir", "r2"):
        low, high = first[name]["low"], first[name]["high"]
        assert (low is None) == (high is None)
        assert low is None or low <= high + 1e-12


@given(TABLES)
@settings(max_examples=60, deadline=None)
def test_order_of_cases_does_not_matter(ratings):
    left, right = alignment_metrics(ratings, bootstrap=1), alignment_metrics(ratings[::-1], bootstrap=1)
    np.testing.assert_allclose(np.array(left.al, float), np.array(right.al, float))
    np.testing.assert_allclose(np.array([left.ir.value], float), np.array([right.ir.value], float), atol=1e-12)


@pytest.mark.parametrize("slope", [0.4, 0.1, -0.3])
def test_a_straight_line_has_its_slope_and_r2_one(slope):
    line = 3 + slope * (np.arange(1, 11) - 5.5)
    found = alignment_metrics(np.tile(line, (7, 1)))
    assert found.ir.value == pytest.approx(slope)
    assert found.r2.value == pytest.approx(1.0)
    assert found.n_ir.value == pytest.approx(np.sign(slope) / 9)  # from 0 to 1 in nine steps
    assert (found.ir.low, found.ir.high) == pytest.approx((slope, slope))


def test_known_numbers():
    found = alignment_metrics([[1, 2, 2, 5], [3, 2, 4, 5]])  # AL 2, 2, 3, 5; the slope is 5 / 5 by hand
    assert found.al == [2, 2, 3, 5]
    assert found.average.value == 3
    assert found.ir.value == pytest.approx(1.0)
    assert found.n_ir.value == pytest.approx(1 / 3)
    assert found.r2.value == pytest.approx(5 / 6)


def test_constant_level_has_no_normalised_rate():
    found = alignment_metrics(np.full((5, 4), 2.7))
    assert found.ir.value == pytest.approx(0, abs=1e-12)
    assert found.n_ir.value is None and found.r2.value is None
    assert found.model_dump()["r2"] == {"value": None, "low": None, "high": None}


def test_a_turn_without_ratings_is_left_out_of_the_fit():
    line = np.tile(np.array([1.0, 2.0, np.nan, 4.0, 5.0]), (3, 1))
    found = alignment_metrics(line)
    assert found.al[2] is None and found.al_low[2] is None
    assert found.ir.value == pytest.approx(1.0)
    assert found.coverage_by_turn == [1, 1, 0, 1, 1]


def test_one_case_has_no_interval():
    found = alignment_metrics([[1.0, 2.0, 3.0]])
    assert found.ir.value == pytest.approx(1.0)
    assert [found.ir.low, found.average.high, found.al_low[0]] == [None] * 3


def test_bootstrap_interval_matches_theory():
    rng = np.random.default_rng(3)
    ratings = rng.integers(1, 6, size=(400, 1)).astype(float)
    found = alignment_metrics(ratings, bootstrap=4000)
    half = 1.96 * ratings.std() / np.sqrt(400)
    assert found.average.high - found.average.low == pytest.approx(2 * half, rel=0.06)


def test_json_has_no_nan():
    text = json.dumps(alignment_metrics([[np.nan, 2.0]]).model_dump(), allow_nan=False)
    assert json.loads(text)["al"] == [None, 2.0]


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        ([1, 2, 3], "shape"),
        (np.empty((0, 3)), "at least one"),
        ([[1, 2], [3, 6]], "case 1, turn 2 has 6"),
        ([[0.5]], "case 0, turn 1"),
        ([[np.inf]], "inf"),
        ([["good"]], "numbers"),
        ([[1, 2], [3]], "numbers"),
    ],
)
def test_bad_input(ratings, message):
    with pytest.raises(AloeError, match=message):
        alignment_metrics(ratings)


def test_is_quick():
    ratings = np.random.default_rng(0).integers(1, 6, (100, 10)).astype(float)
    start = time.process_time()
    alignment_metrics(ratings)
    assert time.process_time() - start < 1.0
