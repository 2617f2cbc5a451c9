"""Rewards by their formulas, and belief in the simulated world."""

import random
from concurrent.futures import Future

import pytest

from aloe_jax.conversation import Persona
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.world import persona_texts, replies, user_messages
from aloe_jax.roles import Cast
from aloe_jax.rollouts.questions import Questions
from aloe_jax.rollouts.rewards import REWARDS, Rewarded
from aloe_jax.rollouts.settings import RLSettings
from tests.players import SCRIPTED
from tests.random_rollouts import PERSONA

DOG = Persona(id="d", profile="Has a brown dog.", personality="Calm.")


def rewarded(**changes):
    given = {
        "conversation": "0.0.p", "persona": PERSONA, "history": [{"role": "user", "content": "Hello."}],
        "text": "Good day.", "tokens": 3,
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


def test_leakage_is_minus_what_is_leaked():
    entry = REWARDS["leakage"]
    hello = [{"role": "user", "content": "Hello."}]
    assert entry.of(None, rewarded(text="Well. Has a brown dog.", persona=DOG, history=hello)) == -0.5
    earlier = [
        {"role": "user", "content": "My dog is brown."},
        {"role": "assistant", "content": "Oh. Has a brown dog."},
    ]
    assert entry.of(None, rewarded(text="Has a brown dog.", persona=DOG, history=[*earlier, *hello])) == 0.0


def test_in_the_simulated_world_a_reply_that_suits_the_user_earns_more_belief(tmp_path):
    """Users tell more to one who has answered well; averaged over personas, and within the range."""
    earned = {"fitting": [], "curt": []}
    with Ledger(tmp_path / "journal.sqlite") as ledger:
        ask = Questions(Cast(SCRIPTED, ledger, only=("user", "inducer")), seed=1)
        for number in range(40):
            draw = random.Random(number)
            persona = Persona(
                id=f"p{number}", profile=persona_texts.write_profile(draw),
                personality=persona_texts.write_personality(draw),
            )  # fmt: skip
            said = ask.user_message(persona.id, persona, [])
            history = [{"role": "user", "content": said}]
            facts, poles = (
                persona_texts.read_profile(persona.profile),
                persona_texts.read_personality(persona.personality),
            )
            fitting = replies.respond(user_messages.hear(said).asked, facts, poles, replies.FAITHFUL, draw)
            for kind, text in (("fitting", fitting), ("curt", "Purple elephants.")):
                answer = Future()
                answer.set_result(
                    ask.user_message(persona.id, persona, [*history, {"role": "assistant", "content": text}])
                )
                reply = rewarded(conversation=persona.id, persona=persona, history=history, text=text, answer=answer)
                earned[kind].append(REWARDS["belief"].of(ask, reply))
    assert all(-1 <= value <= 1 for values in earned.values() for value in values)
    assert sum(earned["fitting"]) / 40 > sum(earned["curt"]) / 40 + 0.03
