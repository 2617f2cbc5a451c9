import json

import pytest

from aloe_jax.benchmark.automatic import facts_of
from aloe_jax.benchmark.calibration import QUALITY, MiscalibratedError, calibrate, known_replies, require
from aloe_jax.benchmark.judge import Judge
from aloe_jax.conversation import Persona
from aloe_jax.llm.ledger import Ledger
from aloe_jax.roles import Cast, Rating, RoleError
from aloe_jax.speech import sentences
from tests.players import SCRIPTED


class Player:
    """A judge by rule: a function of the reply and of its place in the set."""

    def __init__(self, rate):
        self.rate = rate

    def describe(self, name, prompt_of=None):
        return {"model": "by rule", "prompt": prompt_of or name}

    def judge(self, persona, history, reply, seed):
        rating = self.rate(persona, reply, seed)
        if rating is None:
            raise RoleError("judge: unusable answer twice")
        return Rating(rating=rating)


def tried(tmp_path, rate, scripted=False, threshold=0.6):
    with Ledger(tmp_path / "j") as ledger:
        return calibrate(Judge("j", Player(rate), ledger, 0), known_replies(scripted, 6), threshold, 4)


def kind(reply):
    return next(kind for known in known_replies(False, 6) for kind, text in known.replies.items() if text == reply)


def test_the_simulated_judge_knows_its_world(tmp_path):
    with Ledger(tmp_path / "j") as ledger:
        judge = Judge("judge", Cast(SCRIPTED, ledger), ledger, 0)
        found = calibrate(judge, known_replies(True, 6), 0.6, 4)
        assert found.passed and found.correlation > 0.95 and found.coverage == 1
        means = found.means()
        assert means["informed"] == 5 and means["off_persona"] == means["empty"] == 1
        require([found], 0.6)


def test_the_simulated_judge_does_not_know_people(tmp_path):
    with Ledger(tmp_path / "j") as ledger:
        judge = Judge("judge", Cast(SCRIPTED, ledger), ledger, 0)
        with pytest.raises(MiscalibratedError, match=r"judge has a rank correlation of 0\.00"):
            require([calibrate(judge, known_replies(False, 6), 0.6, 4)], 0.6)


def test_a_good_judge_passes(tmp_path):
    found = tried(tmp_path, lambda persona, reply, seed: {3: 5, 2: 3, 1: 1}[QUALITY[kind(reply)]])
    assert found.passed and found.correlation == pytest.approx(1.0)
    assert found.ratings["generic"] == [3] * 6


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (lambda persona, reply, seed: 3, "rated everything alike"),
        (lambda persona, reply, seed: 1 + seed % 5, "rank correlation of"),
        (lambda persona, reply, seed: min(5, 1 + len(reply) // 60), "rank correlation of"),  # likes length
        (lambda persona, reply, seed: None, "readable rating in 0% of the cases"),
        (lambda persona, reply, seed: None if QUALITY[kind(reply)] > 1 else 1, "readable rating in 60%"),
        (lambda persona, reply, seed: 6 - min(5, 2 * QUALITY[kind(reply)] - 1), "of -1.00, below 0.6"),
    ],
)
def test_a_judge_that_cannot_tell_is_found_out(tmp_path, rate, message):
    found = tried(tmp_path, rate)
    assert not found.passed
    with pytest.raises(MiscalibratedError, match=r"judging\.calibrate=report") as caught:
        require([found], 0.6)
    assert message in str(caught.value)


def test_it_is_asked_for_once(tmp_path):
    asked = []

    def rate(persona, reply, seed):
        asked.append(reply)
        return 1

    first = tried(tmp_path, rate)
    assert len(asked) == 30 and tried(tmp_path, rate) == first and len(asked) == 30


@pytest.mark.parametrize("scripted", [False, True])
def test_the_set_is_what_it_says(scripted):
    known = known_replies(scripted, 6)
    assert len({one.persona.id for one in known}) == 6
    for one in known:
        assert set(one.replies) == set(QUALITY) and len(set(one.replies.values())) == 5
        assert one.path[-1]["role"] == "user" and one.path[0]["role"] == "user"
        assert isinstance(one.persona, Persona) and json.dumps(one.path)
        assert len(one.replies["empty"].split()) < 5
        if not scripted:  # length alone gives nothing away: the longest are bad
            assert len(sentences(one.replies["informed"])) <= 3
        users = [message["content"] for message in one.path if message["role"] == "user"]
        way = "exact" if scripted else "overlap"
        assert not facts_of(way, one.persona, users, one.replies["empty"]).leaked
    assert known == known_replies(scripted, 6)
