"""Only a judge that looks at the person passes, whatever else it rewards; and how often a good one does."""

import json
from statistics import fmean

import numpy as np
import pytest
from pydantic import ValidationError

from aloe_jax.benchmark.automatic import facts_of, words_of
from aloe_jax.benchmark.calibration import (
    LEVEL,
    QUALITY,
    MiscalibratedError,
    calibrate,
    judged,
    known_replies,
    require,
)
from aloe_jax.benchmark.judge import Judge
from aloe_jax.benchmark.results import StoredCalibration
from aloe_jax.benchmark.settings import WRITTEN_CALIBRATING, EvaluateSettings, JudgingSettings
from aloe_jax.conversation import Persona
from aloe_jax.errors import AloeError
from aloe_jax.llm.ledger import Ledger
from aloe_jax.roles import Cast, Rating, RoleError
from aloe_jax.settings import load_settings
from tests.players import SCRIPTED

ALL = 36
COMPARED = ("informed", "generic", "off_persona")


class Player:
    """A judge by rule: a function of the persona, the reply and the seed."""

    def __init__(self, rate):
        self.rate = rate

    def describe(self, name, prompt_of=None):
        return {"model": "by rule", "prompt": prompt_of or name}

    def judge(self, persona, history, reply, seed):
        rating = self.rate(persona, reply, seed)
        if rating is None:
            raise RoleError("judge: unusable answer twice")
        return Rating(rating=rating)


def tried(tmp_path, rate, scripted=False, threshold=0.6, count=ALL):
    with Ledger(tmp_path / "j") as ledger:
        return calibrate(Judge("j", Player(rate), ledger, 0), known_replies(scripted, count), threshold, 4)


def kind(persona, reply):
    own = next(known.replies for known in known_replies(False, ALL) if known.persona == persona)
    return next(kind for kind, text in own.items() if text == reply)


def by_kind(**rating):
    return lambda persona, reply, seed: rating[kind(persona, reply)]


def words(reply):
    return len(reply.split())


def test_the_simulated_judge_knows_its_world(tmp_path):
    with Ledger(tmp_path / "j") as ledger:
        judge = Judge("judge", Cast(SCRIPTED, ledger), ledger, 0)
        found = calibrate(judge, known_replies(True, ALL), 0.6, 4)
        assert found.passed and found.correlation > 0.95 and found.coverage == 1
        means = found.means()
        assert means["informed"] == 5 and means["off_persona"] == means["empty"] == 1
        assert all(order.conversations == 18 and order.p < 0.001 for order in found.orders)
        require([found], 0.6)


def test_the_simulated_judge_does_not_know_people(tmp_path):
    with Ledger(tmp_path / "j") as ledger:
        judge = Judge("judge", Cast(SCRIPTED, ledger), ledger, 0)
        with pytest.raises(MiscalibratedError, match=r"judge did not rate informed replies above generic ones"):
            require([calibrate(judge, known_replies(False, ALL), 0.6, 4)], 0.6)


@pytest.mark.parametrize("count", [10, 12, ALL])
def test_a_good_judge_passes(tmp_path, count):
    rate = by_kind(informed=4, generic=3, off_persona=2, ill_mannered=1, empty=1)
    found = tried(tmp_path, rate, count=count)
    assert found.passed and found.ratings["generic"] == [3] * count
    for order in found.orders:
        assert order.conversations == count // 2 and order.difference == 1 and order.p <= LEVEL
        if count < ALL:  # all flips of the signs
            assert order.p == 2 ** -(count // 2)


# Judges that the rank correlation alone lets pass, or that reward something that a good reply tends to have.
BAD = {
    "prefers generic": by_kind(informed=4, generic=5, off_persona=2, ill_mannered=1, empty=1),
    "sees no persona": by_kind(informed=3, generic=3, off_persona=3, ill_mannered=1, empty=1),
    "sees no persona, likes details": by_kind(informed=5, generic=3, off_persona=5, ill_mannered=1, empty=1),
    "sees no persona, likes it plain": by_kind(informed=3, generic=4, off_persona=3, ill_mannered=1, empty=1),
    "likes length": lambda persona, reply, seed: min(5, 1 + words(reply) // 8),
    "likes brevity": lambda persona, reply, seed: 5 - min(4, words(reply) // 8),
    "likes thirty words": lambda persona, reply, seed: max(1, 5 - abs(words(reply) - 30) // 2),
    "likes exclamation marks": lambda persona, reply, seed: min(5, 1 + 2 * reply.count("!")),
    "likes questions": lambda persona, reply, seed: 5 if reply.endswith("?") else 2,
    "rates by chance": lambda persona, reply, seed: 1 + seed % 5,
}


@pytest.mark.parametrize("rate", BAD.values(), ids=BAD)
@pytest.mark.parametrize("count", [10, ALL])
def test_a_judge_that_does_not_look_at_the_person_fails(tmp_path, rate, count):
    found = tried(tmp_path, rate, count=count, threshold=-1.0)
    assert not found.passed
    with pytest.raises(MiscalibratedError, match=r"did not rate .* above .* judging\.calibrate=report"):
        require([found], -1.0)


def test_ratings_that_ignore_the_person_have_opposite_differences(tmp_path):
    def rate(persona, reply, seed):
        return 1 + sum(map(ord, reply)) % 5

    above, below = tried(tmp_path, rate).orders
    assert above.difference == pytest.approx(-below.difference) and max(above.p, below.p) > 0.4


def test_the_rank_correlation_alone_lets_them_pass(tmp_path):
    """What the rule was before: both correlations are above 0.6."""
    found = [tried(tmp_path / name[-3:], BAD[name]) for name in ("prefers generic", "sees no persona")]
    assert all(one.correlation > 0.6 and not one.passed for one in found)


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (lambda persona, reply, seed: 3, "rated everything alike"),
        (lambda persona, reply, seed: None, "readable rating in 0% of the cases"),
        (
            lambda persona, reply, seed: None if QUALITY[kind(persona, reply)] > 1 else 1,
            "readable rating in 60%",
        ),
        (
            lambda persona, reply, seed: 6 - min(5, 2 * QUALITY[kind(persona, reply)] - 1),
            "did not rate informed replies above generic ones over 18 conversations (p = 1, above 0.05",
        ),
        (
            by_kind(informed=5, generic=4, off_persona=4, ill_mannered=1, empty=1),
            "did not rate generic replies above off_persona ones",
        ),
        (
            by_kind(informed=4, generic=3, off_persona=2, ill_mannered=5, empty=5),
            "a rank correlation of",
        ),
    ],
)
def test_why_a_judge_does_not_pass(tmp_path, rate, message):
    found = tried(tmp_path, rate)
    assert not found.passed
    with pytest.raises(MiscalibratedError, match=r"judging\.calibrate=report") as caught:
        require([found], 0.6)
    assert message in str(caught.value)


def test_conversations_without_all_ratings_are_left_out(tmp_path):
    lost = known_replies(False, ALL)[3].persona
    rate = by_kind(informed=4, generic=3, off_persona=2, ill_mannered=1, empty=1)
    found = tried(
        tmp_path, lambda p, reply, s: None if (p, kind(p, reply)) == (lost, "informed") else rate(p, reply, s)
    )
    assert found.passed and [order.conversations for order in found.orders] == [17, 18]


def test_it_is_asked_for_once(tmp_path):
    asked = []

    def rate(persona, reply, seed):
        asked.append(reply)
        return 1

    first = tried(tmp_path, rate)
    assert len(asked) == 5 * ALL and tried(tmp_path, rate) == first and len(asked) == 5 * ALL


@pytest.mark.parametrize("scripted", [False, True])
def test_the_set_is_what_it_says(scripted):
    known = known_replies(scripted, ALL)
    assert len(known) == len({one.persona.id for one in known}) == ALL
    for first, second in zip(known[::2], known[1::2], strict=True):
        assert first.path == second.path and first.persona.profile != second.persona.profile
        assert first.replies["informed"] == second.replies["off_persona"]
        assert first.replies["off_persona"] == second.replies["informed"]
        assert all(first.replies[kind] == second.replies[kind] for kind in ("generic", "ill_mannered", "empty"))
    for one in known:
        assert set(one.replies) == set(QUALITY) and len(set(one.replies.values())) == 5
        assert one.path[-1]["role"] == "user" and one.path[0]["role"] == "user"
        assert isinstance(one.persona, Persona) and json.dumps(one.path)
        assert len(one.replies["empty"].split()) < 5
        users = [message["content"] for message in one.path if message["role"] == "user"]
        way = "exact" if scripted else "overlap"
        assert not facts_of(way, one.persona, users, one.replies["empty"]).leaked
    assert known == known_replies(scripted, ALL) and known_replies(scripted, 5) == known[:5]


def test_the_written_replies_are_of_equal_length():
    known = known_replies(False, ALL)
    longer = 0
    for one in known:
        lengths = [len(words_of(one.replies[kind])) for kind in COMPARED]
        assert max(lengths) - min(lengths) <= 4 and min(lengths) >= 25
        longer += lengths[0] > lengths[1]
    assert 15 <= longer <= 21  # in the others the informed reply is the shorter one, or as long
    means = [fmean(len(words_of(one.replies[kind])) for one in known) for kind in COMPARED]
    assert means[0] == means[2] and abs(means[0] - means[1]) < 1


@pytest.mark.parametrize("count", [2, 6, 8, 11])
def test_too_few_people_are_refused_in_one_line(count):
    values = (f"calibration_personas={count}",)
    with pytest.raises(AloeError, match=rf"calibration_personas: with {count} no judge can pass.*even number from 10"):
        load_settings(JudgingSettings, None, values)
    assert load_settings(JudgingSettings, None, (*values, "calibrate=skip")).calibration_personas == count


def test_more_people_than_are_written_are_refused_for_real_judges():
    assert len(known_replies(False, 10_000)) == WRITTEN_CALIBRATING == ALL
    given = {"output": "o", "personas": "p", "models": {"m": {"path": "x"}}}
    real = {"roles": {"user": {"provider": "scripted"}, "judge": {"provider": "openai", "model": "m"}}}

    def with_people(count, roles, **judging):
        judging = {"calibration_personas": count} | judging
        return EvaluateSettings.model_validate(given | roles | {"judging": judging}).judging.calibration_personas

    with pytest.raises(
        ValidationError, match=r"calibration_personas: 36 people are written.*at most that many, not 48"
    ):
        with_people(48, real)
    assert with_people(36, real) == 36 and with_people(48, real, calibrate="skip") == 48
    assert with_people(48, {"roles": {"provider": "scripted"}}) == 48


def test_a_calibration_of_the_earlier_rule_is_still_read():
    old = {"judge": "j", "ratings": {"informed": [5]}, "correlation": 0.9, "coverage": 1.0, "passed": True}
    assert StoredCalibration.model_validate(old).orders == []


# ---------------------------------------------------------------- how often judges pass


def simulated(levels, count, random, text=0.5, noise=0.7, length=0.0):
    """Ratings by a judge of such mean ratings: a reply has a merit of its own, which both people's ratings share."""
    ratings = {kind: [] for kind in QUALITY}
    for _ in range(count // 2):
        merit = {kind: random.normal(0, text) for kind in ("first", "second", "generic", "ill_mannered")}
        for suiting, other in (("first", "second"), ("second", "first")):
            own = (merit[suiting], merit["generic"], merit[other], merit["ill_mannered"], 0.0)
            for name, level, more in zip(QUALITY, levels, own, strict=True):
                ratings[name].append(int(np.clip(round(level + more + random.normal(0, noise)), 1, 5)))
    return ratings


def passing(levels, count, trials, seed=0, **noise):
    """The share of such judges that pass."""
    random = np.random.default_rng(seed)
    return fmean(judged("j", simulated(levels, count, random, **noise), 0.6).passed for _ in range(trials))


GOOD = {"by the rubric": (4.5, 2.3, 1.3, 1.2, 1.0), "a point between them": (4.2, 3.0, 1.8, 1.5, 1.2)}
BLIND = {"details": (4.5, 2.5, 4.5, 1.3, 1.0), "nothing": (3, 3, 3, 1.3, 1.0), "plain": (2.5, 3.5, 2.5, 1.3, 1.0)}


def test_good_judges_pass_and_blind_ones_fail():
    assert passing(GOOD["by the rubric"], ALL, 12) >= 10 / 12
    assert not any(passing(levels, ALL, 6) for levels in BLIND.values())


# Shares of such judges that pass, by the number of people, as docs/benchmark.md states them: of 200 simulated ones.
TRIALS = 200
POWER = {
    "by the rubric": {10: 0.255, 24: 0.90, 36: 0.985},
    "a point between them": {10: 0.125, 24: 0.975, 36: 1.0},
}


@pytest.mark.soak
def test_the_power_that_the_documentation_states():
    for name, stated in POWER.items():
        for count, share in stated.items():
            error = (2 * max(0.01, share * (1 - share)) / TRIALS) ** 0.5  # of the difference of two such shares
            assert passing(GOOD[name], count, TRIALS, seed=1) == pytest.approx(share, abs=3 * error)


@pytest.mark.soak
def test_bad_judges_do_not_pass_by_chance():
    for levels in (*BLIND.values(), (4.0, 4.4, 2.0, 1.3, 1.0)):  # the last likes generic replies best
        for count in (10, ALL):
            assert passing(levels, count, TRIALS, seed=2) <= 0.01
    # One of the two orders does not hold: the level of its test is the most that can pass, and three errors of 200.
    assert passing((4.5, 3.3, 3.3, 1.3, 1.0), ALL, TRIALS, seed=3) <= LEVEL + 0.046
