import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aloe_jax.benchmark.agreement import agreement, krippendorff_alpha, mean_spearman, spearman

_ = np.nan
# Four observers, twelve units: the worked example of Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability",
# which gives 0.743 for nominal, 0.815 for ordinal and 0.849 for interval data.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
)
RATINGS = st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0, np.nan])


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_published_example(level, alpha):
    assert krippendorff_alpha(PUBLISHED, level) == pytest.approx(alpha, abs=5e-4)


def test_nominal_alpha_by_hand():
    # Two raters, four units: 1-1, 1-2, 2-2, 2-2. Coincidences: 11: 2, 12: 1, 21: 1, 22: 4; 1 - 7 * 2 / (2 * 3 * 5).
    assert krippendorff_alpha([[1, 1, 2, 2], [1, 2, 2, 2]], "nominal") == pytest.approx(1 - 7 * 2 / 30)


def test_spearman_of_a_published_example():
    # IQ against hours of television, ten people: -29/165.
    iq = [106, 86, 100, 101, 99, 103, 97, 113, 112, 110]
    hours = [7, 0, 27, 50, 28, 29, 20, 12, 6, 17]
    assert spearman(iq, hours) == pytest.approx(-29 / 165)


def test_ties_take_their_mean_rank():
    from scipy.stats import spearmanr

    a, b = np.random.default_rng(0).integers(1, 6, (2, 60))
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)


@given(arrays(float, (3, 6), elements=RATINGS))
@settings(max_examples=100, deadline=None)
def test_alpha_keeps_to_its_bounds_and_ignores_the_order_of_raters_and_units(ratings):
    alpha = krippendorff_alpha(ratings)
    assert np.isnan(alpha) or alpha <= 1 + 1e-12
    np.testing.assert_allclose(krippendorff_alpha(ratings[::-1, ::-1]), alpha)
    np.testing.assert_allclose(krippendorff_alpha(ratings**3), alpha)  # ordinal: only the order counts


def test_raters_who_agree_and_raters_who_guess():
    rating = np.random.default_rng(1).integers(1, 6, 2000).astype(float)
    assert krippendorff_alpha([rating, rating]) == pytest.approx(1.0)
    guesses = np.random.default_rng(2).integers(1, 6, (3, 2000)).astype(float)
    assert abs(krippendorff_alpha(guesses)) < 0.05 and abs(mean_spearman(guesses)) < 0.05
    assert krippendorff_alpha([rating, 6 - rating]) < -0.9


def test_undefined_where_nothing_can_be_said():
    assert np.isnan(krippendorff_alpha([[3, 3, 3], [3, 3, 3]]))
    assert np.isnan(krippendorff_alpha([[1, 2, _], [_, _, 3]]))
    assert np.isnan(spearman([1, 2, 3], [2, 2, 2])) and np.isnan(mean_spearman([[1, 2, 3]]))
    found = agreement(PUBLISHED)
    assert (found.raters, found.units) == (4, 11)
