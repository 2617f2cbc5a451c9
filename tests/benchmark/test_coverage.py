"""Simulations of 100 cases with integer ratings, correlated within a case: what intervals and tests promise."""

import numpy as np
import pytest

from aloe_jax.benchmark.alignment import alignment_metrics, summaries
from aloe_jax.benchmark.case_design import CaseDesign
from aloe_jax.benchmark.comparison import compare, compare_all
from aloe_jax.benchmark.intervals import interval, left_out, resamples, student_quantile, studentised
from aloe_jax.benchmark.multiple_tests import corrected_together
from aloe_jax.benchmark.results import STATISTICS
from aloe_jax.errors import AloeError

CASES, TURNS, SIMULATIONS = 100, 10, 1000
TURN = np.arange(TURNS)


def draw(random, curve, cases=CASES):
    """Whole ratings 1-5 around a curve [K]; a case is better or worse throughout."""
    latent = curve + random.normal(0, 0.7, (cases, 1)) + random.normal(0, 0.6, (cases, len(curve)))
    return np.clip(np.floor(latent + 0.5), 1, 5)


def truth(curve):
    """AL of endless cases, and its average and slope."""
    al = draw(np.random.default_rng(99), curve, 200_000).mean(axis=0)
    return np.array([al.mean(), np.polyfit(np.arange(1, len(al) + 1), al, 1)[0], *al])


def test_intervals_cover_the_truth_and_slopes_are_found():
    """AL at every turn, its average and IR within 93-97%; N-IR and R², which are biased, at least 90%.

    As a control, percentile intervals of R² hold its true value of nearly 1 hardly ever.
    """
    random, curve = np.random.default_rng(7), 2 + 0.2 * TURN
    true = truth(curve)
    shape = np.array([true[1] / np.ptp(true[2:]), np.corrcoef(TURN, true[2:])[0, 1] ** 2])
    hits, shaped, percentile = np.zeros(2 + TURNS), np.zeros(2), 0
    values = []
    for _ in range(SIMULATIONS):
        ratings = draw(random, curve)
        found = alignment_metrics(ratings, bootstrap=800)
        low = np.array([found.average.low, found.ir.low, *found.al_low])
        high = np.array([found.average.high, found.ir.high, *found.al_high])
        hits += (low <= true) & (true <= high)
        shaped += [one.low <= at <= one.high for one, at in zip((found.n_ir, found.r2), shape, strict=True)]
        r2 = summaries(resamples(CASES, 800, 0) @ ratings / CASES)["r2"]
        percentile += np.percentile(r2, 97.5) >= shape[1]
        values.append(found.ir.value)
    covered = hits / SIMULATIONS
    assert (shaped / SIMULATIONS >= 0.9).all(), shaped
    assert percentile / SIMULATIONS < 0.1
    assert ((covered >= 0.93) & (covered <= 0.97)).all(), covered
    assert np.mean(values) == pytest.approx(true[1], abs=4 * np.std(values) / np.sqrt(SIMULATIONS))


def test_the_paired_test_holds_its_level_and_its_intervals_cover():
    random, curve = np.random.default_rng(11), 2 + 0.2 * TURN
    rejected, covered = np.zeros(3), np.zeros(3)
    for _ in range(SIMULATIONS):
        case = random.normal(0, 0.7, (CASES, 1))  # the same people talk with both
        one, two = (
            np.clip(np.floor(curve + case + random.normal(0, 0.6, (CASES, TURNS)) + 0.5), 1, 5) for _ in range(2)
        )
        found = compare(one, two, bootstrap=500, permutations=500)
        rejected += [found[name].p <= 0.05 for name in STATISTICS]
        covered += [found[name].low <= 0 <= found[name].high for name in STATISTICS]
    assert (rejected / SIMULATIONS <= 0.07).all(), rejected
    assert (rejected / SIMULATIONS >= 0.02).all(), rejected  # it does reject
    assert (covered / SIMULATIONS >= 0.93).all() and (covered / SIMULATIONS <= 0.97).all(), covered


def test_a_real_difference_is_found_and_a_shift_is_no_slope():
    random, curve = np.random.default_rng(3), 2 + 0.1 * TURN
    one, two = draw(random, curve), draw(random, curve + 0.5)
    found = compare(one, two, permutations=2000)
    assert found["average"].value == pytest.approx(0.5, abs=0.3)
    assert found["average"].p < 0.01 < found["ir"].p
    turned = compare(two, one, permutations=2000)
    for name in STATISTICS:
        assert turned[name].value == pytest.approx(-found[name].value)
        assert (turned[name].low, turned[name].high) == pytest.approx((-found[name].high, -found[name].low))
        assert turned[name].p == found[name].p


def test_pairing_is_sharper_than_the_separate_intervals():
    random = np.random.default_rng(1)
    case = random.uniform(2, 4, size=(50, 1))
    first = np.clip(case + random.normal(0, 0.05, (50, 6)), 1, 5)
    found = compare(first, np.clip(first + 0.2, 1, 5))["average"]
    alone = alignment_metrics(first).average
    assert found.value == pytest.approx(0.2)
    assert found.high - found.low < 0.01 < alone.high - alone.low


def test_the_test_is_the_sign_flip_test_of_the_cases_differences():
    """Against all 2^8 sign flips, of complete ratings."""
    random = np.random.default_rng(5)
    one, two = draw(random, 2 + 0.2 * TURN, 8), draw(random, 2.4 + 0.2 * TURN, 8)
    found = compare(one, two, permutations=40_000)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1).T
    slopes = np.polyfit(TURN, (two - one).T, 1)[0]
    for name, differences in (("average", (two - one).mean(1)), ("ir", slopes), ("final", (two - one)[:, -1])):
        flipped = np.abs((signs * differences).mean(axis=1))
        exact = np.mean(flipped >= abs(differences.mean()) - 1e-12)
        assert found[name].p == pytest.approx(exact, abs=0.012)


def test_models_are_compared_over_the_ratings_that_both_have():
    random = np.random.default_rng(2)
    one, two = draw(random, 2 + 0.2 * TURN), draw(random, 2 + 0.2 * TURN)
    one[random.random(one.shape) < 0.2] = np.nan
    two[0] = np.nan
    both = ~np.isnan(one) & ~np.isnan(two)
    found = compare(one, two, permutations=500)
    left, right = (alignment_metrics(np.where(both, table, np.nan)) for table in (one, two))
    assert found["average"].value == pytest.approx(right.average.value - left.average.value)
    assert found["ir"].value == pytest.approx(right.ir.value - left.ir.value)
    assert found["final"].value == pytest.approx(right.al[-1] - left.al[-1])
    assert {one.cells for one in found.values()} == {int(both.sum())}
    assert found["average"].low < found["average"].value < found["average"].high
    two[:, -1] = np.nan
    found = compare(one, two, permutations=500)["final"]
    assert [found.value, found.low, found.high, found.p] == [None] * 4


def test_all_pairs_are_compared():
    random = np.random.default_rng(0)
    tables = {name: draw(random, 2 + shift + 0.1 * TURN) for name, shift in (("a", 0), ("b", 0.02), ("c", 0.8))}
    found, _ = corrected_together(compare_all(tables, permutations=2000))
    assert [(d.first, d.second) for d in found[::3]] == [("a", "b"), ("a", "c"), ("b", "c")]
    sure = {(d.first, d.second) for d in found if d.statistic == "average" and d.p_holm < 0.05}
    assert sure == {("a", "c"), ("b", "c")}
    assert compare_all({"a": tables["a"]}) == []


@pytest.mark.parametrize("cases", [3, 5, 12])
def test_few_cases_are_covered_too(cases):
    """As in the report's rows of a profile."""
    random, curve = np.random.default_rng(9), np.full(TURNS, 3.0)
    true, hits, count = truth(curve)[0], 0, 400
    for _ in range(count):
        found = alignment_metrics(draw(random, curve, cases)).average
        hits += found.low <= true <= found.high
    assert hits / count == pytest.approx(0.95, abs=0.02 + 3 * (0.05 * 0.95 / count) ** 0.5)


def test_two_cases_say_next_to_nothing_and_one_nothing():
    rising = [[1.0, 2.0, 3.0], [2.0, 4.0, 5.0]]
    found = alignment_metrics(rising)
    assert (found.average.low, found.average.high) == (1.0, 5.0)
    assert compare(rising[:1], rising[1:])["average"].low is None


def test_pairs_need_equal_shapes():
    with pytest.raises(AloeError, match="pair"):
        compare([[1.0, 2.0]], [[1.0]])


@pytest.mark.parametrize(("freedom", "quantile"), [(5, 2.5706), (10, 2.2281), (30, 2.0423), (99, 1.9842)])
def test_student_quantiles(freedom, quantile):
    assert student_quantile(freedom) == pytest.approx(quantile, rel=5e-3)


def test_an_interval_of_a_mean_is_student_s():
    sample = np.random.default_rng(8).normal(3, 1, 200)
    value, ends = interval(
        lambda weights: weights @ sample[:, None] / weights.sum(axis=1, keepdims=True),
        CaseDesign.distinct(200),
        8000,
        0,
    )
    half = student_quantile(199) * sample.std(ddof=1) / np.sqrt(200)
    assert value[0] == pytest.approx(sample.mean())
    assert ends[:, 0] == pytest.approx([sample.mean() - half, sample.mean() + half], abs=0.1 * half)


def test_nothing_undefined_gets_an_interval():
    value, without = np.array([np.nan, 1.0]), np.array([[np.nan, 1.0], [np.nan, np.nan], [np.nan, 1.0]])
    assert np.isnan(studentised(value, without, resamples(3, 50, 0))).all()
    assert left_out(3).sum() == 6
