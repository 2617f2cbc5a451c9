import numpy as np
import pytest

from aloe_jax.benchmark.dialogue import CandidateReply, Dialogue, DialogueTurn
from aloe_jax.benchmark.judge import Judge
from aloe_jax.benchmark.pairwise import side_by_side, sign_test
from aloe_jax.conversation import Persona
from aloe_jax.errors import AloeError
from aloe_jax.llm.ledger import Ledger
from aloe_jax.roles import Cast, PreferredDialogue, RoleError
from tests.players import SCRIPTED


class Player:
    """A judge of two dialogues by rule: of the two lists of the assistant's messages."""

    def __init__(self, rule):
        self.rule, self.asked = rule, 0

    def describe(self, name, prompt_of=None):
        return {"model": self.rule.__name__, "prompt": prompt_of or name}

    def compare(self, persona, first, second, seed):
        self.asked += 1
        said = [[message["content"] for message in dialogue[1::2]] for dialogue in (first, second)]
        preferred = self.rule(persona, *said)
        if preferred is None:
            raise RoleError("comparer: unusable answer twice")
        return PreferredDialogue(preferred=preferred)


def dialogues(*replies):
    personas = [Persona(id=f"p{i}", profile=f"a{i}", personality=f"b{i}") for i in range(len(replies))]
    return [
        Dialogue(persona, [DialogueTurn("hi", CandidateReply(text)) for text in row])
        for persona, row in zip(personas, replies, strict=True)
    ]


def longer(persona, first, second):
    a, b = len("".join(first)), len("".join(second))
    return "tie" if a == b else "A" if a > b else "B"


ONE = dialogues(["a"], ["bb"], ["c"], ["dd"], ["e"])
TWO = dialogues(["aa"], ["b"], ["cc"], ["dd"], ["ee"])


def compared(tmp_path, *rules, one=ONE, two=TWO):
    with Ledger(tmp_path / "j") as ledger:
        judges = [Judge(f"j{i}", Player(rule), ledger, i) for i, rule in enumerate(rules)]
        return side_by_side(("one", "two"), (one, two), judges, 3)


def test_wins_ties_and_losses(tmp_path):
    found = compared(tmp_path, longer)
    assert found.outcomes == ("second", "first", "second", "tie", "second")
    assert (found.wins, found.ties, found.losses, found.coverage) == (3, 1, 1, 1)
    assert found.win_rate == pytest.approx(0.7)
    assert 0 <= found.low < 0.7 < found.high <= 1
    assert found.shown_first == 0.5 and found.contradictions == 0
    turned = compared(tmp_path, longer, one=TWO, two=ONE)
    assert (turned.wins, turned.losses) == (1, 3) and turned.win_rate == pytest.approx(0.3)


@pytest.mark.parametrize(("always", "share"), [("A", 1.0), ("B", 0.0)])
def test_a_judge_with_a_bias_of_position_decides_nothing(tmp_path, always, share):
    found = compared(tmp_path, lambda *_: always)
    assert (found.wins, found.ties, found.losses) == (0, 5, 0)
    assert (found.shown_first, found.contradictions) == (share, 1.0)
    assert found.p is None and found.win_rate == 0.5


def test_an_unreadable_answer_is_missing_and_touches_no_other(tmp_path):
    found = compared(tmp_path, lambda persona, *said: None if persona.id == "p0" else longer(persona, *said))
    assert found.outcomes == (None, "first", "second", "tie", "second")
    assert found.coverage == 0.8 and found.wins + found.ties + found.losses == 4


def test_several_judges_vote(tmp_path):
    def shorter(*said):
        return {"A": "B", "B": "A", "tie": "tie"}[longer(*said)]

    assert compared(tmp_path, longer, longer, shorter).outcomes == compared(tmp_path, longer).outcomes
    assert set(compared(tmp_path, longer, shorter).outcomes) == {"tie"}


def test_a_dialogue_that_stopped_is_cut_off_both(tmp_path):
    found = compared(tmp_path, longer, one=dialogues(["a", "aaaa"], []), two=dialogues(["aa"], ["b"]))
    assert found.outcomes == ("second", None)


def test_it_is_asked_for_once_and_a_lost_judge_is_told(tmp_path):
    player = Player(longer)
    with Ledger(tmp_path / "j") as ledger:
        judge = Judge("j", player, ledger, 0)
        first = side_by_side(("one", "two"), (ONE, TWO), [judge], 3)
        assert side_by_side(("one", "two"), (ONE, TWO), [judge], 3) == first and player.asked <= 10

        def lost(*_):
            raise AloeError("judge: cannot be reached")

        with pytest.raises(AloeError, match="reached"):
            side_by_side(("one", "two"), (ONE, TWO), [Judge("j", Player(lost), ledger, 1)], 3)


def test_the_simulated_judge_prefers_who_knows_the_person(tmp_path):
    from aloe_jax.benchmark.calibration import known_replies

    rows = {
        kind: [
            Dialogue(k.persona, [DialogueTurn(k.path[0]["content"], CandidateReply(k.replies[kind]))])
            for k in known_replies(True, 4)
        ]
        for kind in ("generic", "informed")
    }
    with Ledger(tmp_path / "j") as ledger:
        judge = Judge("judge", Cast(SCRIPTED, ledger), ledger, 0)
        found = side_by_side(("generic", "informed"), (rows["generic"], rows["informed"]), [judge], 3)
    assert found.wins == 4 and found.contradictions == 0


def test_sign_test():
    assert sign_test(9, 1) == pytest.approx(2 * 11 / 1024)
    assert sign_test(3, 3) == 1.0 and np.isnan(sign_test(0, 0))
