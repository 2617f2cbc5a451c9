"""People who share profiles and personalities: what intervals cover and tests reject, by simulation.

The simulated ratings are whole numbers from 1 to 5 of 10 turns (`tests.benchmark.crossed_ratings`). A share of S
simulations is known to about 3·sqrt(p·(1 − p) / S): what is asked for is widened by that.
"""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.special import stdtr

from aloe_jax.benchmark.alignment import alignment_metrics
from aloe_jax.benchmark.case_design import CaseDesign, spread_cases
from aloe_jax.benchmark.comparison import compare
from aloe_jax.benchmark.intervals import design_p_values, left_out
from aloe_jax.benchmark.pairwise import sign_test
from aloe_jax.benchmark.results import STATISTICS
from aloe_jax.benchmark.shared_parts import mean_errors
from tests.benchmark.crossed_ratings import CASE, EFFECTS, RATING, TURNS, crossed, effects, levels, rated
from tests.benchmark.power import detectable_difference

CURVE = 2.6 + 0.1 * np.arange(TURNS)


def covered(design, deviations, count, seed=5):
    """How often the intervals of average AL, IR and AL(k) hold the truth: shares [2 + TURNS]."""
    random, al = np.random.default_rng(seed), levels(CURVE, deviations)
    true = np.array([al.mean(), np.polyfit(np.arange(TURNS), al, 1)[0], *al])
    hits = np.zeros(2 + TURNS)
    for _ in range(count):
        found = alignment_metrics(rated(random, CURVE + effects(random, design, deviations)), 50, 0, design)
        low = np.array([found.average.low, found.ir.low, *found.al_low])
        high = np.array([found.average.high, found.ir.high, *found.al_high])
        hits += (low <= true) & (true <= high)
    return hits / count


def rejected(design, deviations, count, seed=5):
    """How often the test at 5% rejects, of two models that are equal on average: shares [3]."""
    random, rejections = np.random.default_rng(seed), np.zeros(3)
    for _ in range(count):
        people = random.normal(0, 0.3, (design.people, 1))
        one, two = (rated(random, CURVE + people + effects(random, design, deviations)) for _ in range(2))
        found = compare(one, two, 50, 50, 0, design)
        rejections += [found[name].p <= 0.05 for name in STATISTICS]
    return rejections / count


def within(shares, least, most, count):
    slack = [3 * math.sqrt(p * (1 - p) / count) for p in (least, most)]
    return bool((shares >= least - slack[0]).all() and (shares <= most + slack[1]).all())


def test_crossed_people_are_covered_and_the_level_holds():
    """As the benchmark has them, in little; taken for independent, intervals of average AL cover half of the time."""
    deviations, count = (0.25, 0.35), 200
    assert within(covered(crossed(), deviations, count), 0.93, 0.97, count)
    assert within(rejected(crossed(), deviations, count), 0.04, 0.06, count)
    random, true, hits = np.random.default_rng(5), levels(CURVE, deviations).mean(), 0
    for _ in range(count):
        ratings = rated(random, CURVE + effects(random, crossed(), deviations))
        alone = alignment_metrics(ratings, 200).average
        hits += alone.low <= true <= alone.high
    assert hits / count < 0.75


@pytest.mark.soak
@pytest.mark.parametrize("deviations", EFFECTS)
@pytest.mark.parametrize("profiles", [20, 10])
def test_intervals_cover_93_to_97_percent(profiles, deviations):
    count = 2000
    shares = covered(crossed(profiles), deviations, count)
    assert within(shares, 0.93, 0.97, count), shares


@pytest.mark.soak
@pytest.mark.parametrize("deviations", EFFECTS)
@pytest.mark.parametrize("missing", [False, True])
def test_the_test_of_a_difference_rejects_4_to_6_percent(deviations, missing):
    """With (0, 0) it is on the careful side, from 3%: whether parts vary has to be found out from the ratings."""
    count, design = 2000, crossed()
    if missing:
        kept = np.random.default_rng(1).permutation(100)[:85]
        design = design.subset(sorted(kept.tolist()))
    shares = rejected(design, deviations, count)
    assert within(shares, 0.03 if deviations == (0.0, 0.0) else 0.04, 0.06, count), shares


@pytest.mark.soak
@pytest.mark.parametrize("part", ["profiles", "personalities", "sparse"])
@pytest.mark.parametrize("deviations", EFFECTS)
def test_other_designs_hold_their_level(part, deviations):
    """One part shared by people of clusters of several sizes; many profiles and personalities that meet rarely."""
    own, group = np.arange(60), np.minimum(np.arange(60) // 4, 11)
    if part == "sparse":
        pairs = np.random.default_rng(0).choice(30 * 30, 120, replace=False)
        design = CaseDesign(
            tuple(range(120)), *(tuple(np.unique(p, return_inverse=True)[1].tolist()) for p in divmod(pairs, 30))
        )
    else:
        parts = (group, own) if part == "profiles" else (own, group)
        design = CaseDesign(tuple(own.tolist()), *(tuple(one.tolist()) for one in parts))
    assert design.kind == {"sparse": "crossed"}.get(part, f"shared {part}")
    count = 1500
    shares = rejected(design, deviations, count)
    assert within(shares, 0.02 if part == "sparse" else 0.04, 0.065, count), shares


@pytest.mark.soak
@pytest.mark.parametrize("deviations", [(0.0, 0.0), (0.25, 0.35)])
def test_the_side_by_side_test_holds_its_level(deviations):
    """Wins and losses of two equal models; the sign test over cases rejects far more where parts matter."""
    random, design, count, found, signs = np.random.default_rng(3), crossed(), 2000, 0, 0
    for _ in range(count):
        gain = effects(random, design, deviations).mean(axis=1) + random.normal(0, 0.4, 100)
        scores = np.where(np.abs(gain) < 0.15, 0.0, np.sign(gain))
        value = np.array([scores.mean()])
        without = left_out(100) @ scores[:, None] / 99
        found += design_p_values(value, without, design)[0] <= 0.05
        signs += sign_test(int((scores > 0).sum()), int((scores < 0).sum())) <= 0.05
    assert within(np.array([found / count]), 0.025, 0.065, count), found / count
    assert (signs / count > 0.15) == (deviations != (0.0, 0.0))


def level(design, deviations, given=False, count=10_000):
    """How often the t test of a mean of 0 rejects at 5%; `given` personalities are 0 on average among themselves."""
    random = np.random.default_rng(1)
    values = random.normal(0, 0.42, (design.people, count))  # a person's mean over ten turns
    for part, deviation, fixed in zip((design.profile, design.personality), deviations, (False, given), strict=True):
        effects = random.normal(0, deviation, (max(part) + 1, count))
        if fixed:
            effects -= np.average(effects, axis=0, weights=np.bincount(part))
        values += effects[list(part)]
    found = mean_errors(values, design)
    return (2 * stdtr(found.freedom, -np.abs(values.mean(axis=0)) / found.error) <= 0.05).mean()


@pytest.mark.parametrize(("profiles", "personalities"), [(33, 3), (25, 4)])
def test_three_or_four_personalities_are_given_and_the_level_holds_for_them(profiles, personalities):
    """Pooled or not, their variance cannot be estimated well enough: tests rejected up to 8%."""
    design = crossed(profiles, personalities)
    assert design.kind == "shared profiles" and design.fixed_parts() == [f"the {personalities} personalities"]
    shares = np.array([level(design, deviations, given=True) for deviations in EFFECTS])
    assert within(shares, 0.045, 0.055, 10_000), shares


@pytest.mark.parametrize("cases", [30, 40, 45])
def test_some_of_the_crossed_people_hold_the_level_and_are_not_all_too_careful(cases):
    """Two-way cluster-robust errors rejected 0.6 to 1.7% at the two smaller effects."""
    design = crossed().subset(spread_cases(crossed(), cases))
    assert design.kind == "crossed"
    shares = np.array([level(design, deviations) for deviations in EFFECTS])
    assert within(shares, 0.025, 0.055, 10_000), shares


@pytest.mark.parametrize("profiles", [20, 10])
def test_the_whole_table_holds_the_promised_level(profiles):
    shares = np.array([level(crossed(profiles), deviations) for deviations in EFFECTS])
    assert within(shares, 0.03, 0.06, 10_000), shares


# ---------------------------------------------------------------- the arithmetic


def table(seed=0, profiles=20, personalities=5, by_profile=1.0, by_personality=1.0):
    random = np.random.default_rng(seed)
    values = random.normal(0, 1, (profiles, personalities))
    values += random.normal(0, by_profile, (profiles, 1)) + random.normal(0, by_personality, (1, personalities))
    return values


def test_a_complete_table_has_the_mean_squares_of_the_textbook():
    values = table()
    profiles, personalities = values.shape
    centred = values - values.mean()
    rows, columns = centred.mean(axis=1), centred.mean(axis=0)
    rest = centred - rows[:, None] - columns
    squares = (
        personalities * (rows**2).sum() / (profiles - 1),
        profiles * (columns**2).sum() / (personalities - 1),
        (rest**2).sum() / ((profiles - 1) * (personalities - 1)),
    )
    variance = squares[0] + squares[1] - squares[2]
    freedom = variance**2 / (squares[0] ** 2 / 19 + squares[1] ** 2 / 4 + squares[2] ** 2 / 76)
    found = mean_errors(values.reshape(-1, 1), crossed())
    assert found.error[0] == pytest.approx(np.sqrt(variance / 100))
    assert found.freedom[0] == pytest.approx(freedom)


def test_parts_without_an_effect_are_pooled_and_the_error_is_that_of_independent_people():
    values = table(by_profile=0.0, by_personality=0.0)
    values -= values.mean(axis=1, keepdims=True) + values.mean(axis=0) - values.mean()  # not even by chance
    found = mean_errors(values.reshape(-1, 1), crossed())
    assert found.error[0] == pytest.approx(values.std(ddof=1) / 10) and found.freedom[0] == 99


def test_clusters_of_one_size_are_student_s_test_of_their_means():
    values = table(3, 12, 4)
    design = CaseDesign(tuple(range(48)), tuple(np.repeat(np.arange(12), 4).tolist()), tuple(range(48)))
    found = mean_errors(values.reshape(-1, 1), design)
    assert design.kind == "shared profiles"
    assert found.error[0] == pytest.approx(values.mean(axis=1).std(ddof=1) / np.sqrt(12))
    assert found.freedom[0] == pytest.approx(11)


def test_the_variance_of_an_incomplete_table_is_right_on_average():
    random, design = np.random.default_rng(2), crossed().subset([i for i in range(100) if i % 7 and i % 11])
    draws = 4000
    values = random.normal(0, 1, (design.people, draws))
    for part in (design.profile, design.personality):
        values += random.normal(0, 1, (max(part) + 1, draws))[list(part)]
    error = mean_errors(values, design).error
    assert (error**2).mean() == pytest.approx(values.mean(axis=0).var(), rel=0.06)


def test_the_order_of_people_does_not_matter():
    values, order = table().reshape(-1, 1), np.random.default_rng(0).permutation(100)
    one, two = mean_errors(values, crossed()), mean_errors(values[order], crossed().subset(order.tolist()))
    np.testing.assert_allclose(one, two)


def test_people_who_agree_to_the_last_digit():
    design, same = crossed(6, 5), np.full((30, TURNS), 2.0)
    found = compare(same, same + 1, design=design)["average"]
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    assert found.p == pytest.approx(2.0**-29)
    assert compare(same, same, design=design)["average"].p == 1.0


def test_cases_of_the_same_person_count_as_one():
    """Twice the cases with the same numbers are no more people."""
    random = np.random.default_rng(4)
    ratings = random.integers(1, 6, (12, TURNS)).astype(float)
    twice = CaseDesign((*range(12), *range(12)), tuple(range(12)), tuple(range(12)))
    one, two = alignment_metrics(ratings), alignment_metrics(np.concatenate([ratings, ratings]), design=twice)
    assert (one.average, one.ir) == (two.average, two.ir)


def test_what_a_design_detects():
    """Of distinct people as the textbook says; of crossed ones far less, which no more profiles can mend."""
    rest = 0.6
    textbook = (1.98 + 0.85) * math.sqrt((0.2**2 + 0.2**2 + rest**2) / 100)
    assert detectable_difference(CaseDesign.distinct(100), 0.2, 0.2, rest) == pytest.approx(textbook, rel=0.03)
    shared = detectable_difference(crossed(), 0.2, 0.2, rest)
    assert shared > 1.8 * textbook
    assert detectable_difference(crossed(40), 0.2, 0.2, rest) > 0.85 * shared
    random, design, count, found = np.random.default_rng(1), crossed(), 400, 0
    values = random.normal(shared, rest, (100, count))
    for part in (design.profile, design.personality):
        values += random.normal(0, 0.2, (max(part) + 1, count))[list(part)]
    for column in values.T:
        without = left_out(100) @ column[:, None] / 99
        found += design_p_values(np.array([column.mean()]), without, design)[0] <= 0.05
    assert found / count == pytest.approx(0.8, abs=3 * math.sqrt(0.16 / count))


def test_the_documented_power_is_that_of_the_code():
    """docs/benchmark.md: the rest of a person's mean over ten turns is its own effect and noise, of both models."""
    text = (Path(__file__).parents[2] / "docs/benchmark.md").read_text()
    rest = math.sqrt(2 * (CASE**2 + (RATING**2 + 1 / 12) / TURNS))
    designs = (crossed(), crossed(40), crossed(10, 10), CaseDesign.distinct(100), CaseDesign.distinct(200))
    rows = re.findall(r"^\| ([\d.]+), ([\d.]+) \| ([\d. |]+) \|$", text, re.M)
    assert tuple((float(one), float(two)) for one, two, _ in rows) == EFFECTS
    for profile, personality, documented in rows:
        deviations = float(profile) * math.sqrt(2), float(personality) * math.sqrt(2)
        found = [detectable_difference(design, *deviations, rest) for design in designs]
        assert [float(cell) for cell in documented.split("|")] == pytest.approx(found, abs=0.0051)
