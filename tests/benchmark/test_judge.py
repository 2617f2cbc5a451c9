import numpy as np
import pytest

from aloe_jax.benchmark.dialogue import Dialogue, Exchange, Reply
from aloe_jax.benchmark.judge import Verdict, rate, ratings_table
from aloe_jax.conversation import Persona
from aloe_jax.errors import AloeError
from aloe_jax.llm.ledger import Ledger
from aloe_jax.roles import Rating, RoleError


class Cast:
    """A judge that rates by length, and cannot read some replies: "never" at all, "later" at the first attempt."""

    def __init__(self):
        self.seen, self.histories = [], []

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
            [Exchange(f"m{k}", Reply(text)) for k, text in enumerate(row)],
        )
        for i, row in enumerate(replies)
    ]


def ask(found, cast, path, **more):
    with Ledger(path) as ledger:
        return rate(found, cast, ledger, seed=0, judge={"model": "x"}, **more)


def test_an_unreadable_rating_is_missing_and_touches_no_other(tmp_path):
    verdicts = ask(dialogues(["a", "never", "bb"], ["later", "", "ccc"]), Cast(), tmp_path / "j")
    assert [[v.rating for v in row] for row in verdicts] == [[2, None, 3], [5, 1, 4]]
    assert verdicts[0][0].reason == "for p0"
    assert "unusable" in verdicts[0][1].reason
    table = ratings_table(verdicts, 4)
    np.testing.assert_array_equal(table, [[2, np.nan, 3, np.nan], [5, 1, 4, np.nan]])


def test_a_rating_is_asked_for_once(tmp_path):
    found = dialogues(["a", "never"], ["bb", "d"])
    first = ask(found, Cast(), tmp_path / "j")
    cast, progress = Cast(), []
    assert ask(found, cast, tmp_path / "j", progress=progress.append) == first
    assert (cast.seen, progress) == ([], [4])
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
        assert len(ledger.all("rating")) == 64


def test_no_dialogue_no_rating():
    assert np.isnan(ratings_table([[], [Verdict(None, "")]], 2)).all()
