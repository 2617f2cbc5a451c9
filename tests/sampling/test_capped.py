"""Capped scores of attention (Gemma 2) in the cache: tokens are those of full forward passes."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aloe_jax.models.maxtext.decoder import MaxTextSpec
from aloe_jax.models.weights import nested
from aloe_jax.sampling import cache
from aloe_jax.sampling.cache import PAGE, each, hold
from aloe_jax.sampling.sampler import Sampler

LENGTH = 128
CAP = 5.0  # of this model's attention
SIZES = {
    "base_emb_dim": 32, "base_mlp_dim": 40, "base_num_decoder_layers": 1, "base_num_query_heads": 4,
    "base_num_kv_heads": 2, "head_dim": 16, "vocab_size": 96, "sliding_window_size": 16,
    "attn_logits_soft_cap": CAP, "final_logits_soft_cap": 3.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def gemma():
    """Two layers, of which the first has a window; scores large enough for the cap."""
    spec, rng = MaxTextSpec("gemma2-2b", SIZES, 256), np.random.default_rng(0)
    values = {name: rng.normal(0, 0.5, weight.shape) for name, weight in spec.weights().items()}
    return spec.assemble(nested({name: jnp.asarray(value, jnp.float32) for name, value in values.items()}))


@pytest.fixture(scope="module")
def likeliest(gemma):
    """(rows) -> after every place of every row the likeliest token, by full forward passes."""
    full = nnx.jit(lambda model, tokens: model(tokens).argmax(axis=-1))
    return lambda rows: np.asarray(full(gemma, np.array([[*row, *[0] * (LENGTH - len(row))] for row in rows])))


def tokens(*lengths):
    rng = np.random.default_rng(4)
    return [rng.integers(4, 96, length).tolist() for length in lengths]


def check(likeliest, rows, replies):
    following = likeliest([[*row, *reply] for row, reply in zip(rows, replies, strict=True)])
    for row, reply, after in zip(rows, replies, following, strict=True):
        assert reply == after[len(row) - 1 : len(row) + len(reply) - 1].tolist()


def test_greedy_replies_equal_full_passes_over_two_turns(gemma, likeliest):
    """Rows of several lengths together, past the window and a page, and again after more tokens."""
    rows = tokens(3, 20, 70)
    session = Sampler(gemma, max_length=LENGTH, rows=3).session(3)
    session.extend(rows)
    first = session.reply(12, stop=())
    check(likeliest, rows, first)
    assert len({tuple(reply) for reply in first}) == 3 and len(set(first[0])) > 3
    more = tokens(5, 1, 9)
    session.extend(more)
    check(
        likeliest, [row + reply + new for row, reply, new in zip(rows, first, more, strict=True)],
        session.reply(12, stop=()),
    )  # fmt: skip


def test_attention_under_a_cap_is_softmax_of_capped_scores():
    rng = np.random.default_rng(1)
    query, key, value = (3 * rng.standard_normal((2, PAGE, heads, 16)) for heads in (4, 2, 2))
    positions, lengths = jnp.tile(jnp.arange(PAGE)[None], (2, 1)), jnp.zeros(2, jnp.int32)
    held = hold(jnp.asarray(key, jnp.float32), jnp.asarray(value, jnp.float32), "float32")
    tail = each(lambda axis, x: jnp.concatenate([jnp.zeros_like(x), x], axis), held)

    def attended(cap):
        return np.asarray(cache.attend(jnp.asarray(query, jnp.float32), (), tail, lengths, positions, 0, cap=cap))

    scores = np.einsum("btnh,bsnh->bnts", query / 4, key.repeat(2, axis=2))
    capped = np.where(np.tri(PAGE, dtype=bool), CAP * np.tanh(scores / CAP), -np.inf)
    shares = np.exp(capped - capped.max(axis=-1, keepdims=True))
    expected = np.einsum("bnts,bsnh->btnh", shares / shares.sum(axis=-1, keepdims=True), value.repeat(2, axis=2))
    np.testing.assert_allclose(attended(CAP), expected, atol=2e-5)
    assert np.abs(attended(None) - expected).max() > 0.1  # the cap is told
