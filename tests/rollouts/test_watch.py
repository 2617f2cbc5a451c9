"""What is made of the ratings of two judges, and when a gap between them is called reward hacking."""

import numpy as np
import pytest

from aloe_jax.llm.settings import RolesSettings
from aloe_jax.rollouts.settings import WatchSettings
from aloe_jax.rollouts.watch import compared, digest, hacking

NONE = float("nan")


def test_replies_count_with_both_ratings_and_errors_are_over_conversations():
    own = np.array([[5.0, 4.0], [3.0, NONE], [NONE, NONE]])
    other = np.array([[1.0, 2.0], [2.0, 5.0], [5.0, 5.0]])
    found = compared(own, other)
    assert found["judge"] == 4.0 and found["watch"] == pytest.approx(5 / 3)
    assert found["gap"] == pytest.approx(4.0 - 5 / 3) and found["coverage"] == 0.5
    # Means of the conversations: 4.5 and 3.0 of one judge, 1.5 and 2.0 of the other.
    assert found["judge_error"] == pytest.approx(0.75) and found["watch_error"] == pytest.approx(0.25)
    assert [found[f"judge/turn_0{turn}"] for turn in (1, 2)] == [4.0, 4.0]
    assert [found[f"watch/turn_0{turn}"] for turn in (1, 2)] == [1.5, 2.0]


def test_without_another_judge_or_without_the_training_s_there_is_no_gap():
    ratings = np.array([[1.0, 2.0]])
    alone = {"coverage": 1.0, "watch": 1.5, "watch_error": 0.0, "watch/turn_01": 1.0, "watch/turn_02": 2.0}
    assert compared(ratings, None) == alone
    assert compared(np.full((1, 2), NONE), ratings) == alone
    assert compared(np.full((1, 2), NONE), np.full((1, 2), NONE)) == {"coverage": 0.0}


def watched(*points, **more):
    return [
        {"step": 10 * number, "kind": "watch", "judge": judge, "watch": watch} | more
        for number, (judge, watch) in enumerate(points, start=1)
    ]


def test_a_gap_that_opens_is_called_by_its_name():
    said = hacking(watched((2.0, 2.0), (2.5, 2.4), (3.5, 1.8)), [])
    assert said is not None and said.startswith(
        "reward hacking: since step 20 the training judge's rating of the watched replies rose from 2.50 to 3.50, and "
        "the watch judge's of the same replies fell from 2.40 to 1.80"
    )
    assert "stayed at 1.00" in (hacking(watched((2.0, 1.0), (3.0, 1.0)), []) or "")


@pytest.mark.parametrize(
    "records",
    [
        [],
        watched((2.0, 2.0)),
        watched((2.0, 2.0), (3.0, 2.1)),  # both rise
        watched((2.0, 2.0), (1.5, 1.5)),  # both fall
        watched((2.0, 2.0), (2.1, 1.9), judge_error=0.3, watch_error=0.4),  # by less than their error
        [*watched((2.0, 2.0), (4.0, 1.0)), {"step": 30, "kind": "watch", "coverage": 0.0}],  # nothing is known now
    ],
)
def test_no_gap_is_reported_where_there_is_none(records):
    assert hacking(records, []) is None


def test_records_under_other_roles_are_not_compared():
    before, now = watched((2.0, 2.0), others=1), watched((2.0, 2.0), (3.0, 1.5), others=2)
    assert hacking([*before, now[1]], []) is None
    assert hacking(now, []) is not None


def test_the_digest_changes_with_who_answers_and_with_how_many_personas():
    roles = RolesSettings.model_validate({"provider": "scripted"})
    found = [
        digest(WatchSettings.model_validate(given), roles)
        for given in (
            {"roles": {"judge": {"provider": "openai", "model": "m"}}},
            {"roles": {"judge": {"provider": "openai", "model": "n"}}},
            {"roles": {"user": {"provider": "openai", "model": "m"}}},
            {"roles": {"judge": {"provider": "openai", "model": "m"}}, "personas": 4},
        )
    ]
    assert len(set(found)) == 4
    again = {"every": 7, "roles": {"judge": {"provider": "openai", "model": "m", "attempts": 2}}}
    assert digest(WatchSettings.model_validate(again), roles) == found[0]


def test_with_other_users_alone_the_training_s_rating_is_that_of_its_own_conversations():
    trained = [{"step": step, "kind": "train", "reward/judge": 1.0 + step / 10} for step in range(1, 21)]
    records = [{"step": step, "kind": "watch", "watch": watch} for step, watch in ((10, 2.5), (20, 2.0))]
    said = hacking(records, trained)
    assert said is not None and "training conversations rose from 1.55 to 2.55" in said
    assert "with the watch's users it fell from 2.50 to 2.00" in said
    assert hacking(records, []) is None
