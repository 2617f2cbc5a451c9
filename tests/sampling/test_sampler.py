import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aloe_jax.errors import AloeError
from aloe_jax.models import ModelSpec, assemble, weights
from aloe_jax.models.weights import nested
from aloe_jax.sampling import Generation, Sampler, cache, programs
from tests.random_models import random_decoder

SPEC = ModelSpec(
    vocab=50, layers=2, width=16, query_heads=4, kv_heads=2, head_size=4, feed_forward=24, max_length=200
)  # fmt: skip
full_logits = nnx.jit(lambda model, tokens: model(tokens))
full_forward = nnx.jit(lambda model, tokens: model(tokens).argmax(axis=-1))


@pytest.fixture(scope="module")
def model():
    """Weights large enough that greedy replies vary: what comes next depends on more than the last token."""
    rng = np.random.default_rng(3)
    values = {name: rng.standard_normal(weight.shape, np.float32) for name, weight in weights(SPEC).items()}
    values |= {name: 0.5 * value for name, value in values.items() if not name.endswith("norm")}
    return assemble(SPEC, nested(jax.tree.map(jnp.asarray, values)))


def prompts(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, SPEC.vocab, length).tolist() for length in lengths]


@pytest.fixture(scope="module")
def full_replies(model):
    """Twenty greedy tokens for prompts(3, 17, 30), by full forward passes over rows of fixed length."""
    rows = prompts(3, 17, 30)
    for _ in range(20):
        tokens = np.zeros((3, 64), np.int32)
        for at, row in enumerate(rows):
            tokens[at, : len(row)] = row
        following = np.asarray(full_forward(model, tokens))
        rows = [[*row, int(following[at, len(row) - 1])] for at, row in enumerate(rows)]
    return [row[-20:] for row in rows]


def test_ragged_cached_replies_equal_full_forward_passes(model, full_replies):
    assert Sampler(model).generate(prompts(3, 17, 30), 20) == full_replies
    assert len({token for reply in full_replies for token in reply}) > 10  # else the comparison shows little


@pytest.mark.parametrize(("windows", "seed"), [((3, 0), 0), ((3, 0), 1), ((1, 17), 2)])
def test_windows_in_the_cache_equal_full_forward_passes(windows, seed):
    spec = dataclasses.replace(SPEC, family="qwen2", windows=windows)
    model = random_decoder(spec, 0.5, seed=5)
    rows = prompts(3, 17, 30, seed=seed)
    session = Sampler(model).session(3)
    session.extend(rows)
    replies = session.reply(9)
    session.extend(more := prompts(2, 0, 5, seed=seed + 1))
    later = session.reply(6)
    tokens = np.zeros((3, 64), np.int32)
    whole = [row + reply + new + last for row, reply, new, last in zip(rows, replies, more, later, strict=True)]
    for at, row in enumerate(whole):
        tokens[at, : len(row)] = row
    following = np.asarray(full_forward(model, tokens))
    for at, (row, reply, new, last) in enumerate(zip(rows, replies, more, later, strict=True)):
        start = len(row) - 1
        assert following[at, start : start + len(reply)].tolist() == reply
        start = len(row) + len(reply) + len(new) - 1
        assert following[at, start : start + len(last)].tolist() == last


@pytest.mark.parametrize("undivided", [False, True])
def test_long_rows_fill_pages_and_blocks(model, monkeypatch, undivided):
    """Prompts and replies that end before, at and after the bounds of pages (64 tokens) and of blocks."""
    monkeypatch.setattr(cache, "BLOCK", 10**6 if undivided else 64)
    rows = prompts(63, 64, 65, 129)
    session = Sampler(model).session(4)
    session.extend(rows)
    for new in ([1, 0, 1, 2], [3, 4, 30, 5]):
        more = prompts(*new, seed=sum(new))
        replies = session.reply(30)
        session.extend(more)
        rows = [[*row, *reply, *added] for row, reply, added in zip(rows, replies, more, strict=True)]
    last = session.reply(2)
    tokens = np.zeros((4, 200), np.int32)
    for at, row in enumerate(rows):
        tokens[at, : len(row)] = row
    following = np.asarray(full_forward(model, tokens))
    assert [reply[0] for reply in last] == [int(following[at, len(row) - 1]) for at, row in enumerate(rows)]
    assert Sampler(model).generate(prompts(63, 64, 65, 129), 30) == [
        following[at, length - 1 : length + 29].tolist() for at, length in enumerate((63, 64, 65, 129))
    ]


def test_turns_equal_starting_over(model):
    session = Sampler(model).session(3)
    rows = prompts(5, 20, 11)
    session.extend(rows)
    for turn, new in enumerate([prompts(0, 3, 17), prompts(16, 1, 4), prompts(0, 0, 0)]):
        replies = session.reply(20)
        assert replies == Sampler(model).generate(rows, 20), turn
        rows = [row + reply + more for row, reply, more in zip(rows, replies, new, strict=True)]
        session.extend(new)
        assert session.lengths == [len(row) for row in rows]


def test_a_row_draws_the_same_in_any_batch(model):
    rows, seeds = prompts(18, 21, 30), [5, 6, 2**40 + 7]
    settings = {"temperature": 2.0, "top_k": 20, "top_p": 0.9}
    together = Sampler(model).generate(rows, 20, seeds=seeds, **settings)
    alone = [Sampler(model).generate([row], 20, seeds=[s], **settings)[0] for row, s in zip(rows, seeds, strict=True)]
    assert together == alone
    assert Sampler(model).generate(rows, 20, seeds=[8, 9, 10], **settings) != together
    twins = Sampler(model).generate([rows[0]] * 3, 20, temperature=2.0)
    assert len({tuple(row) for row in twins}) == 3  # rows have different seeds by default


def test_replies_end_with_a_stop_token(model, full_replies):
    rows, stop = prompts(3, 17, 30), full_replies[1][4]
    ended = [reply[: reply.index(stop) + 1] if stop in reply else reply for reply in full_replies]
    assert ended != full_replies
    assert Sampler(model).generate(rows, 20, stop=[stop]) == ended
    with_end = Sampler(model, tokenizer=SimpleNamespace(eos_token_id=stop))
    assert with_end.generate(rows, 20) == ended
    assert with_end.generate(rows, 20, stop=()) == full_replies


def test_a_row_that_is_full_stops_and_does_not_wrap(model, full_replies):
    session = Sampler(model, max_length=32).session(3)
    session.extend(prompts(3, 17, 30))
    replies = session.reply(20)
    assert replies == [full_replies[0], full_replies[1][:15], full_replies[2][:2]]
    assert session.lengths == [23, 32, 32]
    assert [len(reply) for reply in session.reply(20)] == [9, 0, 0]
    assert [len(reply) for reply in session.reply(20)] == [0, 0, 0]
    with pytest.raises(AloeError, match="row 1: 33 tokens pass max_length 32"):
        session.extend([[], [1], []])
    assert Sampler(model, max_length=10**6).max_length == SPEC.max_length


def test_mistakes_name_the_row(model):
    for rows, message in [([[1], []], "row 1: has no tokens"), ([[1], [50]], "row 1: token 50 is outside")]:
        with pytest.raises(AloeError, match=message):
            Sampler(model).generate(rows, 4)
    with pytest.raises(AloeError, match="1 seeds for 2"):
        Sampler(model).generate([[1], [2]], 4, seeds=[1])
    with pytest.raises(AloeError, match="max_new_tokens"):
        Sampler(model).generate([[1]], 0)
    with pytest.raises(AloeError, match="top_p"):
        Sampler(model).generate([[1]], 1, top_p=0.0)
    assert Sampler(model).generate([], 4) == []


def test_other_lengths_and_settings_compile_nothing_new(model):
    Sampler(model).generate(prompts(17, 20, 31), 20)
    before = programs.prefill._cache_size(), programs.decode._cache_size()
    for lengths, new in [((32, 1, 30), 32), ((18, 19, 20), 17)]:
        settings = {"temperature": 0.5, "top_k": 3, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.2}
        Sampler(model).generate(prompts(*lengths), new, stop=(1, 2), seeds=[1] * 3, **settings)
    assert (programs.prefill._cache_size(), programs.decode._cache_size()) == before


def test_more_conversations_than_rows_wait_and_are_served(model):
    """Replies of very different lengths, so that rows change hands while others are in the middle of theirs."""
    rows, more = prompts(18, 70, 3, 21, 9, 12, 66), prompts(5, 1, 0, 2, 9, 5, 5, seed=1)
    settings = {"temperature": 1.5, "stop": range(0, 50, 17)}
    together = Sampler(model, rows=2).session(7, 192)
    alone = [Sampler(model).session(1, 192) for _ in rows]
    for new in (rows, more):
        together.extend(new)
        replies = together.replies(60, seeds=range(7), **settings)
        for number, session in enumerate(alone):
            session.extend([new[number]])
            assert session.replies(60, seeds=[number], **settings) == [replies[number]]
    assert len({len(reply.tokens) for reply in replies}) > 3
    assert together.lengths == [session.lengths[0] for session in alone]


def test_some_conversations_may_be_left_out(model):
    rows, more = prompts(18, 70, 3, 21), prompts(5, 1, 4, 2, seed=1)
    session, whole = (Sampler(model).session(4) for _ in range(2))
    for each in (session, whole):
        each.extend(rows)
    expected = whole.reply(9, temperature=1.0, seeds=[7, 8, 9, 10])
    assert session.reply(9, temperature=1.0, seeds=[9, 7], among=[2, 0]) == [expected[2], expected[0]]
    assert session.lengths == [27, 70, 12, 21]
    assert session.reply(9, temperature=1.0, seeds=[8, 10], among=[1, 3]) == [expected[1], expected[3]]
    for each in (session, whole):
        each.extend(more)
    assert session.reply(9) == whole.reply(9)


def test_an_interrupted_call_does_no_harm(model, monkeypatch):
    """Ctrl-C comes when the device has done its part, of which nobody takes note then."""
    session, decode = Sampler(model).session(2), programs.decode
    session.extend(prompts(60, 3))

    def interrupted(*args, **settings):
        decode(*args, **settings)
        raise KeyboardInterrupt

    told = [next(pieces := session.stream(30, every=3))[1].tokens]
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(programs, "decode", interrupted)
        list(pieces)
    assert session.lengths == [63, 6]
    assert [told[0] + session.reply(17)[0]] == Sampler(model).generate(prompts(60, 3), 20)[:1]


def test_log_probs_are_those_of_the_model_before_any_cut(model):
    rows = prompts(5, 20)
    session = Sampler(model).session(2)
    session.extend(rows)
    made = session.replies(70, temperature=1.3, top_k=5, repetition_penalty=1.5, stop=(), logps=True)
    for row, generation in zip(rows, made, strict=True):
        whole = [*row, *generation.tokens]
        logps = jax.nn.log_softmax(model(jnp.array([whole]))[0])
        expected = logps[jnp.arange(len(row) - 1, len(whole) - 1), jnp.array(generation.tokens)]
        np.testing.assert_allclose(generation.logps, expected, atol=1e-4)
        assert generation.reason == "max_new_tokens" and len(generation.tokens) == 70
    assert session.replies(2)[0].logps is None


def test_the_penalty_counts_the_whole_context(model):
    """As transformers defines it: over all tokens of prompt, earlier turns and reply."""
    session = Sampler(model).session(1)
    row = prompts(70)[0]
    session.extend([row])
    for _ in range(2):
        for token in session.reply(6, repetition_penalty=1.7, stop=())[0]:
            padded = np.array([row + [0] * (100 - len(row))])
            logits = np.array(full_logits(model, padded)[0, len(row) - 1])
            seen = sorted(set(row))
            logits[seen] = np.where(logits[seen] < 0, logits[seen] * 1.7, logits[seen] / 1.7)
            assert token == logits.argmax()
            row = [*row, token]
        session.extend([[3, 4]])
        row = [*row, 3, 4]
    assert Sampler(model).generate([row], 8, repetition_penalty=1.7) != Sampler(model).generate([row], 8)


def test_every_reply_says_why_it_ended(model, full_replies):
    session = Sampler(model, max_length=32).session(3)
    session.extend(prompts(3, 17, 30))
    made = session.replies(20, stop=[full_replies[0][3]])
    assert [generation.reason for generation in made] == ["stop", "length", "length"]
    again = session.replies(20, logps=True)
    assert [generation.reason for generation in again[1:]] == ["length", "length"]
    assert again[1] == Generation([], "length", [])
    assert Sampler(model).session(0).replies(3) == []


def test_a_stream_is_the_reply_in_pieces_and_may_be_left(model, full_replies):
    session = Sampler(model).session(3)
    session.extend(prompts(3, 17, 30))
    pieces = list(session.stream(20, every=3))
    told = [[token for number, piece in pieces if number == row for token in piece.tokens] for row in range(3)]
    assert told == full_replies
    assert max(len(piece.tokens) for _, piece in pieces) == 3
    assert [piece.reason for _, piece in pieces[-3:]] == ["max_new_tokens"] * 3
    assert all(piece.reason is None for _, piece in pieces[:-3])
    left = Sampler(model).session(1)
    left.extend(prompts(17)[:1])
    first = next(iter(left.stream(20, every=3)))[1].tokens
    rest = left.reply(17)[0]
    assert [first + rest] == Sampler(model).generate(prompts(17), 20)


@pytest.mark.parametrize("keep", [0, 1, 40, 63, 64, 65, 100, 129, 130])
def test_replacing_tokens_equals_starting_over(model, keep):
    session = Sampler(model).session(1)
    session.extend(prompts(125))
    whole = prompts(125)[0] + session.reply(6)[0]
    other = whole[:keep] + prompts(7, seed=9)[0]
    session.replace(0, other)
    assert session.lengths == [keep + 7]
    assert session.reply(8) == Sampler(model).generate([other], 8)
    session.replace(0, whole[:keep] or [1])  # only shorter
    assert session.reply(8) == Sampler(model).generate([whole[:keep] or [1]], 8)
    with pytest.raises(AloeError, match="outside the model's vocabulary"):
        session.replace(0, [50])


@pytest.mark.parametrize(("kind", "typical", "largest"), [("bfloat16", 0.01, 0.1), ("int8", 0.02, 0.2)])
def test_a_smaller_cache_moves_the_log_probs_little(model, kind, typical, largest):
    """Not the tokens' equality, which rounding may change, but how far log-probs move that spread over several nats."""
    rows = prompts(*range(100, 116))
    logps = {}
    for cache_kind in ("compute", kind):
        session = Sampler(model, cache=cache_kind).session(16, 192)
        session.extend(rows)
        made = session.replies(1, logps=True)
        logps[cache_kind] = np.array([generation.logps[0] for generation in made])
    differences = np.abs(logps["compute"] - logps[kind])
    print(kind, differences.max(), np.median(differences), logps["compute"].std())
    assert 0 < np.median(differences) < typical and differences.max() < largest
