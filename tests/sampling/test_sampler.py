"""Tokens are those of full forward passes, whatever rows, turns, pages and batches they pass through."""

import dataclasses

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.sampling import cache
from aloe_jax.sampling.sampler import Sampler
from tests.compilations import compilations
from tests.random_models import random_decoder
from tests.sampling.tiny import LENGTH, ROWS, SPEC, drawn, following, lively, prompts, replies, session_of

LENGTHS = 3, 17, 130


@pytest.fixture(scope="module")
def model():
    return lively()


@pytest.fixture(scope="module")
def full_replies(model):
    """Twenty greedy tokens for prompts(*LENGTHS), one by one, by full forward passes over rows of fixed length."""
    rows = prompts(*LENGTHS)
    for _ in range(20):
        likeliest = following(model, rows)
        rows = [[*row, int(likeliest[at, len(row) - 1])] for at, row in enumerate(rows)]
    return [row[-20:] for row in rows]


def test_ragged_cached_replies_equal_full_forward_passes(model, full_replies):
    assert Sampler(model, max_length=LENGTH).generate(prompts(*LENGTHS), 20) == full_replies
    assert len({token for reply in full_replies for token in reply}) > 10  # else the comparison shows little


@pytest.mark.parametrize("seed", [0, 1])
def test_windows_in_the_cache_equal_full_forward_passes(seed):
    spec = dataclasses.replace(SPEC, family="qwen2", windows=(3, 17))
    model = random_decoder(spec, 0.5, seed=5)
    rows = prompts(3, 17, 30, seed=seed)
    session = Sampler(model).session(3, 64)
    session.extend(rows)
    first = session.reply(9)
    session.extend(more := prompts(2, 0, 5, seed=seed + 1))
    later = session.reply(6)
    whole = [row + reply + new + last for row, reply, new, last in zip(rows, first, more, later, strict=True)]
    likeliest = following(model, whole, 64)
    for at, (row, reply, new, last) in enumerate(zip(rows, first, more, later, strict=True)):
        start = len(row) - 1
        assert likeliest[at, start : start + len(reply)].tolist() == reply
        start = len(row) + len(reply) + len(new) - 1
        assert likeliest[at, start : start + len(last)].tolist() == last


@pytest.mark.parametrize("block", [64, cache.BLOCK])
def test_long_rows_fill_pages_and_blocks(model, monkeypatch, block):
    """Prompts and replies that end before, at and after the bounds of pages (64 tokens) and of blocks."""
    monkeypatch.setattr(cache, "BLOCK", block)
    rows = prompts(62, 63, 64, 125)
    session = session_of(model, rows)
    for new in ([1, 0, 1, 2], [3, 4, 30, 3]):
        more = prompts(*new, seed=sum(new))
        made = session.reply(30)
        session.extend(more)
        rows = [[*row, *reply, *added] for row, reply, added in zip(rows, made, more, strict=True)]
    last = session.reply(2)
    likeliest = following(model, rows)
    assert [reply[0] for reply in last] == [int(likeliest[at, len(row) - 1]) for at, row in enumerate(rows)]
    assert replies(model, prompts(62, 63, 64, 125), 30) == [
        likeliest[at, length - 1 : length + 29].tolist() for at, length in enumerate((62, 63, 64, 125))
    ]


def test_turns_equal_starting_over(model):
    rows = prompts(5, 20, 11)
    session = Sampler(model, max_length=LENGTH).session(3)
    session.extend(rows)
    for turn, new in enumerate([prompts(0, 3, 17), prompts(16, 1, 4), prompts(0, 0, 0)]):
        made = session.reply(20)
        assert made == replies(model, rows, 20), turn
        rows = [row + reply + more for row, reply, more in zip(rows, made, new, strict=True)]
        session.extend(new)
        assert session.lengths == [len(row) for row in rows]


@pytest.mark.parametrize("keep", [(0, 1, 40, 63), (64, 65, 100, 127), (128, 129, 130, 131)])
def test_replacing_tokens_equals_starting_over(model, keep):
    session = session_of(model, prompts(125, 125, 125, 125))
    whole = [row + reply for row, reply in zip(prompts(125, 125, 125, 125), session.reply(6), strict=True)]
    other = [row[:left] + new for row, left, new in zip(whole, keep, prompts(7, 7, 7, 7, seed=9), strict=True)]
    shorter = [row[:left] or [1] for row, left in zip(whole, keep, strict=True)]
    for rows in (other, shorter):
        for number, row in enumerate(rows):
            session.replace(number, row)
        assert session.lengths == [len(row) for row in rows]
        assert session.reply(8) == replies(model, rows, 8)
    with pytest.raises(AloeError, match="outside the model's vocabulary"):
        session.replace(0, [50])


def test_a_row_draws_the_same_in_any_batch(model):
    rows, seeds = prompts(18, 21, 30), [5, 6, 2**40 + 7]
    settings = {"temperature": 2.0, "top_k": 20, "top_p": 0.9}
    together = replies(model, rows, 20, seeds=seeds, **settings)
    alone = [
        Sampler(model).generate([row], 20, seeds=[seed], **settings)[0] for row, seed in zip(rows, seeds, strict=True)
    ]
    assert together == alone
    assert replies(model, rows, 20, seeds=[8, 9, 10], **settings) != together
    twins = replies(model, [rows[0]] * 3, 20, temperature=2.0)
    assert len({tuple(row) for row in twins}) == 3  # rows have different seeds by default


def test_more_conversations_than_rows_wait_and_are_served(model):
    """Replies of very different lengths, so that rows change hands while others are in the middle of theirs."""
    settings = {"temperature": 1.5, "stop": range(0, 50, 17)}
    together = Sampler(model, max_length=LENGTH, rows=ROWS).session(9)
    rows: list[list[int]] = [[]] * 9
    for new in (prompts(18, 70, 3, 21, 9, 12, 66, 1, 2), prompts(5, 1, 0, 2, 9, 5, 5, 7, 0, seed=1)):
        rows = [row + added for row, added in zip(rows, new, strict=True)]
        together.extend(new)
        made = together.replies(60, seeds=range(9), **settings)
        for at in (slice(0, 4), slice(4, 8), slice(8, 9)):
            assert made[at] == drawn(model, rows[at], 60, seeds=range(9)[at], **settings)
        rows = [row + reply.tokens for row, reply in zip(rows, made, strict=True)]
        assert together.lengths == [len(row) for row in rows]
        assert len({len(reply.tokens) for reply in made}) > 3


def test_some_conversations_may_be_left_out(model):
    rows, more = prompts(18, 70, 3, 21), prompts(5, 1, 4, 2, seed=1)
    session, whole = (session_of(model, rows) for _ in range(2))
    expected = whole.reply(9, temperature=1.0, seeds=[7, 8, 9, 10])
    assert session.reply(9, temperature=1.0, seeds=[9, 7], among=[2, 0]) == [expected[2], expected[0]]
    assert session.lengths == [27, 70, 12, 21]
    assert session.reply(9, temperature=1.0, seeds=[8, 10], among=[1, 3]) == [expected[1], expected[3]]
    for each in (session, whole):
        each.extend(more)
    assert session.reply(9) == whole.reply(9)


def test_other_lengths_and_settings_compile_nothing_new(model):
    replies(model, prompts(17, 20, 31), 20)
    with compilations() as compiled:
        for lengths, new in [((132, 1, 30), 32), ((18, 19, 120), 17)]:
            settings = {"temperature": 0.5, "top_k": 3, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.2}
            Sampler(model, max_length=LENGTH).generate(prompts(*lengths), new, stop=(1, 2), seeds=[1] * 3, **settings)
    assert not compiled.keys() & {"prefill", "decode"}


def test_mistakes_name_the_row(model):
    for rows, message in [
        ([[1], []], "conversation 1: has no tokens"),
        ([[1], [50]], "conversation 1: token 50 is outside"),
    ]:
        with pytest.raises(AloeError, match=message):
            Sampler(model).generate(rows, 4)
    with pytest.raises(AloeError, match="1 seeds for 2"):
        Sampler(model).generate([[1], [2]], 4, seeds=[1])
    with pytest.raises(AloeError, match="max_new_tokens"):
        Sampler(model).generate([[1]], 0)
    with pytest.raises(AloeError, match="top_p"):
        Sampler(model).generate([[1]], 1, top_p=0.0)
    assert Sampler(model).generate([], 4) == []
    assert Sampler(model, max_length=10**6).max_length == SPEC.max_length
