"""Missing ratings: what they may bias, how far, and that a failing judge shifts nothing."""

import itertools

import numpy as np
import pytest

from aloe_jax.benchmark.alignment import alignment_metrics
from aloe_jax.benchmark.comparison import compare
from aloe_jax.benchmark.dialogue import CandidateReply, Dialogue, DialogueTurn
from aloe_jax.benchmark.judge import JudgedReply, Vote, judge_leniency, range_table, ratings_table
from aloe_jax.benchmark.missing import level_bounds
from aloe_jax.benchmark.results import STATISTICS
from aloe_jax.benchmark.scoring import Talked
from tests.benchmark.crossed_ratings import TURNS, crossed, rated
from tests.benchmark.test_shared_parts import within
from tests.report import sample

NAN = np.nan


def numbers(ratings):
    found = alignment_metrics(ratings, 2)
    return {"average": found.average.value, "ir": found.ir.value, "final": found.al[-1]}


def test_bounds_are_reached_by_some_ratings_and_passed_by_none():
    first = np.array([[2.0, NAN, 4.0], [1.0, 3.0, NAN]])
    second = np.array([[NAN, 2.0, 5.0], [4.0, 3.0, NAN]])
    found, differences = alignment_metrics(first, 2).bounds, compare(first, second, 2, 2)

    def fillings(table):
        for ratings in itertools.product((1.0, 2.5, 5.0), repeat=int(np.isnan(table).sum())):
            filled = table.copy()
            filled[np.isnan(table)] = ratings
            yield numbers(filled)

    one, two = list(fillings(first)), list(fillings(second))
    for name in STATISTICS:
        values = [filled[name] for filled in one]
        assert (found[name].least, found[name].most) == pytest.approx((min(values), max(values)))
        values = [b[name] - a[name] for a in one for b in two]
        bounds = differences[name].bounds
        assert (bounds.least, bounds.most) == pytest.approx((min(values), max(values)))


def test_nothing_missing_has_no_bounds():
    ratings = np.ones((3, 2))
    assert alignment_metrics(ratings, 2).bounds == {}
    assert all(found.bounds is None and found.cells == 6 for found in compare(ratings, ratings, 2, 2).values())


def hard_to_please(count, share, design=None):
    """How often the test rejects, of two equal models of which one lacks turns 7–10 of its hardest people."""
    random, rejections = np.random.default_rng(8), np.zeros(3)
    for _ in range(count):
        people = random.normal(0, 0.6, (100, 1))
        one, two = (rated(random, 2.6 + 0.1 * np.arange(TURNS) + people) for _ in range(2))
        two[np.argsort(people[:, 0])[: int(share * 100)], 6:] = NAN
        found = compare(one, two, 50, 400, 0, design)
        rejections += [found[name].p <= 0.05 for name in STATISTICS]
    return rejections / count


def test_a_model_gains_nothing_by_missing_the_ratings_of_hard_people():
    count = 200
    shares = hard_to_please(count, 0.2)
    assert within(shares, 0.04, 0.06, count), shares


@pytest.mark.soak
@pytest.mark.parametrize("share", [0.1, 0.2])
@pytest.mark.parametrize("design", [None, crossed()], ids=["distinct", "crossed"])
def test_two_equal_models_with_gaps_are_told_apart_in_4_to_6_percent(share, design):
    count = 2000
    shares = hard_to_please(count, share, design)
    assert within(shares, 0.03 if design else 0.04, 0.06, count), shares


def verdicts(random, cases, turns, fails=0.0, lenient=1.0):
    """Two judges of whom the second rates higher, and at times gives no answer."""
    found = []
    for _ in range(cases):
        row = []
        for _ in range(turns):
            stern = int(random.integers(1, 4))
            mild = None if random.random() < fails else int(stern + lenient + random.integers(0, 2))
            row.append(JudgedReply((Vote("stern", 0, stern, ""), Vote("mild", 0, mild, "no" if mild is None else ""))))
        found.append(row)
    return found


def test_the_mean_does_not_shift_when_a_lenient_judge_fails():
    whole = verdicts(np.random.default_rng(0), 400, 5)
    random = np.random.default_rng(1)
    gaps = [
        [JudgedReply((v.votes[0], Vote("mild", 0, None, "blocked"))) if random.random() < 0.4 else v for v in row]
        for row in whole
    ]
    every = [v for row in gaps for v in row]
    leniency = judge_leniency(every)
    assert leniency["mild"] == pytest.approx(-leniency["stern"]) and leniency["mild"] == pytest.approx(0.75, abs=0.03)
    complete = ratings_table(whole, 5, judge_leniency(v for row in whole for v in row))
    assert complete.mean() == pytest.approx(np.mean([v.rating for row in whole for v in row]))  # nothing to adjust
    adjusted, bare = ratings_table(gaps, 5, leniency), ratings_table(gaps, 5, {})
    assert adjusted.mean() == pytest.approx(complete.mean(), abs=0.02)
    assert bare.mean() < complete.mean() - 0.2
    kept = np.array([[v.votes[1].rating is not None for v in row] for row in gaps])
    assert (adjusted[kept] == complete[kept]).all()


def voted(least, most=None):
    """A reply on which one of two judges rates `least` and the other `most`, or gives no answer."""
    return JudgedReply((Vote("a", 0, least, ""), Vote("b", 0, most, "" if most else "blocked")))


def test_bounds_are_over_missing_votes_and_not_over_replies_without_any():
    """Two judges, one missing on 40% of the replies: every reply has a rating, and 40% of them are adjusted."""
    random = np.random.default_rng(0)
    people = sample.personas(10)

    def spoken(name, fails):
        dialogues = [
            Dialogue(one, [DialogueTurn("hi", CandidateReply(f"{name} {t}")) for t in range(4)]) for one in people
        ]
        rows = [
            [voted(int(random.integers(1, 6)), None if random.random() < fails else 3) for _ in range(4)]
            for _ in people
        ]
        return Talked(name, dialogues, rows)

    one, two = spoken("one", 0.0), spoken("two", 0.4)
    found = sample.results([one, two], judges=("a", "b"))
    assert not found.models["one"].bounds and found.models["two"].coverage == 1.0
    lost = sum(vote.rating is None for row in two.verdicts for verdict in row for vote in verdict.votes)
    bounds = found.models["two"].bounds["average"]
    assert lost > 8 and bounds.most - bounds.least == pytest.approx(4 * lost / 80)
    (difference,) = [each for each in found.differences if each.statistic == "average"]
    assert difference.bounds.most - difference.bounds.least == pytest.approx(4 * lost / 80)
    assert difference.bounds.least <= difference.value <= difference.bounds.most


def test_a_judge_that_fails_for_one_model_and_likes_it_is_within_the_bounds():
    """The additive model takes the judge's leniency of all models for that of this one: off; bounds say by how much."""
    fair = [[voted(3, 3)] for _ in range(50)]
    liked = [[voted(2, 5)] for _ in range(50)]
    gaps = [[voted(2)] if case < 40 else row for case, row in enumerate(liked)]
    leniency = judge_leniency(v for row in fair + gaps for v in row)
    table, whole = ratings_table(gaps, 1, leniency), ratings_table(liked, 1, {})
    bounds = level_bounds(range_table(gaps, 1))["average"]
    assert abs(table.mean() - whole.mean()) > 0.5
    assert bounds.least <= whole.mean() <= bounds.most
    assert voted(2).range == (1.5, 3.5) and voted(2, 5).range == (3.5, 3.5)


def test_leniency_of_three_judges_is_that_of_the_additive_model():
    random = np.random.default_rng(3)
    bias = {"a": -0.5, "b": 0.0, "c": 0.5}
    replies = []
    for _ in range(3000):
        own = random.uniform(2, 4)
        given = {name: own + shift + random.normal(0, 0.2) for name, shift in bias.items()}
        lost = random.choice(["a", "b", "c", ""])
        replies.append(JudgedReply(tuple(Vote(n, 0, None if n == lost else r, "") for n, r in given.items())))
    found = judge_leniency(replies)
    assert found == pytest.approx(bias, abs=0.02)


def test_judges_without_a_common_reply_are_not_adjusted():
    alone = [
        JudgedReply((Vote("a", 0, 5, ""), Vote("b", 0, None, ""))),
        JudgedReply((Vote("a", 0, None, ""), Vote("b", 0, 1, ""))),
    ]
    assert judge_leniency(alone) == {"a": 0.0, "b": 0.0}
    assert judge_leniency([]) == {}
    adjusted = JudgedReply((Vote("a", 0, 5, ""), Vote("b", 0, None, ""))).adjusted({"a": -0.5, "b": 0.5})
    assert adjusted == 5.0  # within the scale
