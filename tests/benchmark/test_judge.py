import numpy as np
import pytest

from aloe_jax.benchmark.dialogue import CandidateReply, Dialogue, DialogueTurn
from aloe_jax.benchmark.judge import Judge, JudgedReply, Ratings, Vote, ratings_table, votes_table
from aloe_jax.conversation import Persona
from aloe_jax.errors import AloeError
from aloe_jax.llm.ledger import Ledger
from aloe_jax.roles import ATTEMPTS, Rating, RoleError


class Cast:
    """A judge that rates by length, and cannot read some replies: "never" at all, "later" at the first attempt."""

    def __init__(self):
        self.seen, self.histories = [], []

    def describe(self, name, prompt_of=None):
        return {"model": "x", "prompt": prompt_of or name}

    def judge(self, persona, history, reply, seed):
        first = reply not in self.seen
        self.seen.append(reply)
        self.histories.append(history)
        if reply == "never" or (reply == "later" and first):
            raise RoleError("judge: unusable answer twice")
        if reply == "offline":
            raise AloeError("judge: cannot be reached")
        return Rating(rating=min(5, 1 + len(reply)), reason=f"for {persona.id}")


def dialogues(*replies):
    return [
        Dialogue(
            Persona(id=f"p{i}", profile="a", personality="b"),
            [DialogueTurn(f"m{k}", CandidateReply(text)) for k, text in enumerate(row)],
        )
        for i, row in enumerate(replies)
    ]


def ask(found, cast, path, votes=1, names=("j",), progress=lambda: None):
    with Ledger(path) as ledger:
        judges = [Judge(name, cast, ledger, seed=0) for name in names]
        with Ratings(judges, votes, 4, progress) as ratings:
            for dialogue in found:
                for turn in range(len(dialogue.exchanges)):
                    ratings.want(dialogue, turn)
        return [ratings.verdicts(dialogue) for dialogue in found]


def test_an_unreadable_rating_is_missing_and_touches_no_other(tmp_path):
    verdicts = ask(dialogues(["a", "never", "bb"], ["later", "", "ccc"]), Cast(), tmp_path / "j")
    assert [[v.rating for v in row] for row in verdicts] == [[2, None, 3], [5, 1, 4]]
    assert verdicts[0][0].reason == "for p0"
    assert "unusable" in verdicts[0][1].reason
    table = ratings_table(verdicts, 4, {})
    np.testing.assert_array_equal(table, [[2, np.nan, 3, np.nan], [5, 1, 4, np.nan]])


def test_a_rating_is_asked_for_once_and_a_missing_one_again(tmp_path):
    found = dialogues(["a", "never"], ["bb", "d"])
    first = ask(found, Cast(), tmp_path / "j")
    cast, told = Cast(), []
    assert ask(found, cast, tmp_path / "j", progress=lambda: told.append(1)) == first
    assert (cast.seen, len(told)) == (["never"] * ATTEMPTS, 4)
    cast = Cast()
    ask(dialogues(["a", "changed"], ["bb", "d"]), cast, tmp_path / "j")
    assert cast.seen == ["changed"]


def test_the_judge_sees_the_path_up_to_the_reply(tmp_path):
    cast = Cast()
    ask(dialogues(["a", "b"]), cast, tmp_path / "j")
    last = max(cast.histories, key=len)
    assert [(m["role"], m["content"]) for m in last] == [("user", "m0"), ("assistant", "a"), ("user", "m1")]


def test_ratings_before_a_failure_are_kept(tmp_path):
    many = dialogues([str(i) for i in range(64)] + ["offline"])
    with pytest.raises(AloeError, match="reached"):
        ask(many, Cast(), tmp_path / "j")
    with Ledger(tmp_path / "j") as ledger:
        assert len(ledger.all("rating")) >= 60  # but for what was in flight


def test_a_failure_reaches_whoever_wants_more(tmp_path):
    (one,) = dialogues(["offline", "b"])
    with Ledger(tmp_path / "j") as ledger, pytest.raises(AloeError, match="reached"):  # noqa: SIM117
        with Ratings([Judge("j", Cast(), ledger, 0)], 1, 1) as ratings:
            ratings.want(one, 0)
            while True:
                ratings.want(one, 1)


class Moody(Cast):
    """A judge whose votes follow from their seeds; every third is unreadable."""

    def judge(self, persona, history, reply, seed):
        self.seen.append((reply, seed))
        if reply == "c":
            raise RoleError("judge: unusable answer twice")
        return Rating(rating=1 + seed % 5, reason="")


def test_votes_have_seeds_of_their_own_and_are_averaged(tmp_path):
    found = dialogues(["a", "b"], ["c", "d"])
    cast = Moody()
    verdicts = ask(found, cast, tmp_path / "j", votes=3, names=("x", "y"))
    assert len({seed for reply, seed in cast.seen if reply == "a"}) == 3
    votes = verdicts[0][0].votes
    assert [(vote.judge, vote.number) for vote in votes] == [(j, n) for j in "xy" for n in range(3)]
    assert verdicts[0][0].rating == np.mean([vote.rating for vote in votes])
    assert verdicts[1][0].rating is None
    tables = votes_table(verdicts, 2)
    assert len(tables) == 6 and np.isnan(tables["x", 1][1, 0])
    one = ask(found, Moody(), tmp_path / "k")
    assert one[0][0].votes[0].rating == votes[0].rating  # the first vote is the same whatever comes after it


def test_the_mean_is_of_the_votes_that_there_are():
    votes = (Vote("x", 0, None, "no rating"), Vote("x", 1, 4, "good"), Vote("y", 0, 3, "fair"))
    assert JudgedReply(votes).rating == 3.5 and JudgedReply(votes).reason == "good"
    assert JudgedReply(votes[:1]).rating is None and JudgedReply(votes[:1]).reason == "no rating"


def test_no_dialogue_no_rating():
    assert np.isnan(ratings_table([[], [JudgedReply((Vote("j", 0, None, ""),))]], 2, {})).all()
