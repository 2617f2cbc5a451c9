"""Rewards that no model is asked for, by their formulas."""

import pytest

from aloe_jax.rollouts.rewards import REWARDS, Rewarded
from aloe_jax.rollouts.settings import RLSettings
from tests.random_rollouts import PERSONA


def rewarded(**changes):
    given = {
        "persona": PERSONA, "history": [{"role": "user", "content": "Hello."}], "text": "Good day.", "tokens": 3,
        "ended": True, "most_tokens": 20, "late_tokens": 5, "seed": 0,
    }  # fmt: skip
    return Rewarded(**given | changes)


@pytest.mark.parametrize(
    ("tokens", "ended", "earned"),
    [(1, True, 0.0), (15, True, 0.0), (16, True, -0.2), (18, True, -0.6), (20, True, -1.0), (20, False, -1.0),
     (4, False, -1.0)],
)  # fmt: skip
def test_overlong_falls_linearly_over_the_last_part_of_the_allowance(tokens, ended, earned):
    entry = REWARDS["overlong"]
    found = entry.of(None, rewarded(tokens=tokens, ended=ended))
    assert found == pytest.approx(earned) and entry.bounds[0] <= found <= entry.bounds[1]


@pytest.mark.parametrize(("tokens", "earned"), [(1, -0.05), (20, -1.0)])
def test_length_is_a_share_of_the_allowance(tokens, earned):
    assert REWARDS["length"].of(None, rewarded(tokens=tokens)) == pytest.approx(earned)


@pytest.mark.parametrize(("part", "most", "late"), [(0.2, 20, 4), (1.0, 20, 20), (0.01, 20, 1), (0.25, 6, 2)])
def test_the_last_part_is_at_least_one_token(part, most, late):
    assert RLSettings(overlong="penalise", overlong_part=part, draw={"max_new_tokens": most}).late_tokens == late


def test_cut_replies_that_are_penalised_have_the_weight_that_is_given_or_one():
    assert RLSettings().weights == {"judge": 1.0}
    assert RLSettings(overlong="penalise").weights == {"judge": 1.0, "overlong": 1.0}
    assert RLSettings(overlong="penalise", rewards={"judge": 1.0, "overlong": 3.0}).weights["overlong"] == 3.0
