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
from aloe_jax.sampling import Sampler, sampler
from tests.random_models import random_decoder

SPEC = ModelSpec(
    vocab=50, layers=2, width=16, query_heads=4, kv_heads=2, head_size=4, feed_forward=24, max_length=200
)  # fmt: skip
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


def test_long_prompts_go_in_pieces(model, full_replies, monkeypatch):
    monkeypatch.setattr(sampler, "MOST_TOKENS", 16)
    assert Sampler(model).generate(prompts(3, 17, 30), 20) == full_replies


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
    before = sampler._prefill._cache_size(), sampler._decode._cache_size()
    for lengths, new in [((32, 1, 30), 32), ((18, 19, 20), 17)]:
        Sampler(model).generate(prompts(*lengths), new, temperature=0.5, top_k=3, top_p=0.8, stop=(1, 2), seeds=[1] * 3)
    assert (sampler._prefill._cache_size(), sampler._decode._cache_size()) == before
