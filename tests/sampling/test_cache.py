"""Caches in bfloat16 and int8: what they hold is rounded as derived, and nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aloe_jax.models.native import decoder
from aloe_jax.sampling import cache
from aloe_jax.sampling.cache import PAGE, each, hold
from aloe_jax.sampling.sampler import Sampler
from tests.sampling.tiny import LENGTH, lively, padded, prompts

KINDS = ("bfloat16", "int8")


def kept(key: jax.Array, value: jax.Array, kind: str) -> tuple[jax.Array, jax.Array]:
    """Keys and values [B,T,K,H] after rounding."""
    held = hold(key, value, kind)
    keys, values = held.keys.astype(jnp.float32), held.values.astype(jnp.float32)
    if held.key_scales is not None:
        keys, values = keys * held.key_scales[:, :, None], values * held.value_scales[..., None]
    return keys.transpose(0, 3, 1, 2), values.swapaxes(1, 2)


def bound(x: np.ndarray, kind: str) -> np.ndarray:
    """How far rounding may move each number of x [...,H].

    Half of the last bit kept: of the 8 of bfloat16's significand, or of int8's 127 steps up to a head's largest value.
    """
    if kind == "bfloat16":
        return np.abs(x) * 2.0**-8 / (1 - 2.0**-8)
    return np.broadcast_to(np.abs(x).max(axis=-1, keepdims=True) / 127 / 2 * (1 + 1e-5), x.shape)


@pytest.mark.parametrize("kind", KINDS)
def test_rounding_is_to_the_nearest(kind):
    random = np.random.default_rng(0)
    spread = 10.0 ** random.uniform(-3, 3, (3, 40, 2, 1))  # every token and head has a scale of its own
    key, value = (jnp.asarray(random.standard_normal((3, 40, 2, 16)) * spread, jnp.float32) for _ in range(2))
    for x, rounded in zip((key, value), kept(key, value, kind), strict=True):
        moved, most = np.abs(np.asarray(rounded - x)), bound(np.asarray(x), kind)
        assert (moved <= most).all() and (moved / most).max() > 0.9
    assert not np.asarray(kept(jnp.zeros_like(key), value, kind)[0]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_attention_moves_no_further_than_rounding_allows(kind):
    """If no score moves by more than e, no weight of softmax changes by more than the factor exp(2e).

    So sum_s |p'_s v'_s - p_s v_s| <= (exp(2e) - 1) max|v'| + max|v' - v|, and e = max_s sum_h |q_h| |k'_sh - k_sh|.
    """
    random = np.random.default_rng(1)
    query, key, value = (jnp.asarray(random.standard_normal((2, PAGE, heads, 16)), jnp.float32) for heads in (4, 2, 2))
    positions = jnp.tile(jnp.arange(PAGE)[None], (2, 1))
    lengths = jnp.zeros(2, jnp.int32)

    def attended(kind: str, change=lambda held: held) -> np.ndarray:
        held = change(hold(key, value, kind))
        tail = each(lambda axis, x: jnp.concatenate([jnp.zeros_like(x), x], axis), held)  # new tokens come second
        return np.asarray(cache.attend(query, (), tail, lengths, positions, 0))

    exact, close = attended("float32"), attended(kind)
    rounded_key, rounded_value = (np.asarray(x) for x in kept(key, value, kind))
    moved = np.abs(rounded_key - np.asarray(key)).repeat(2, axis=2)  # [B,S,N,H]: of every query head
    e = np.einsum("btnh,bsnh->btns", np.abs(np.asarray(query)) / 4, moved).max(axis=-1)[..., None]
    top = np.abs(rounded_value).max(axis=1).repeat(2, axis=1)[:, None]
    off = np.abs(rounded_value - np.asarray(value)).max(axis=1).repeat(2, axis=1)[:, None]
    most = np.expm1(2 * e) * top + off + 1e-6
    assert (np.abs(close - exact) <= most).all()
    assert np.median(most) < 0.3 and np.median(np.abs(close - exact)) > 1e-4
    if kind == "int8":  # the bound finds a scale that is lost
        wrong = attended(kind, lambda held: held._replace(value_scales=held.value_scales * 1.5))
        assert (np.abs(wrong - exact) > most).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_reads_what_was_rounded_and_nothing_else(kind, monkeypatch):
    """Two turns over pages and blocks, against full forward passes with the keys and values that `kept` gives."""
    model, rows = lively(), prompts(3, 40, 63, 100)
    session = Sampler(model, max_length=LENGTH, cache=kind).session(4)
    whole, told = rows, [[], [], [], []]
    places: list[list[int]] = [[] for _ in rows]
    for new in (rows, prompts(5, 0, 30, 2, seed=1)):
        session.extend(new)
        whole = [row + added for row, added in zip(whole, new, strict=True)] if new is not rows else rows
        made = session.replies(20, temperature=1.0, stop=(), logps=True)
        for number, generation in enumerate(made):
            places[number] += range(len(whole[number]), len(whole[number]) + len(generation.tokens))
            told[number] = told[number] + generation.logps
        whole = [row + generation.tokens for row, generation in zip(whole, made, strict=True)]

    def logps() -> np.ndarray:
        """Of the drawn tokens of all rows."""
        found = jax.jit(lambda tokens: jax.nn.log_softmax(model(tokens)))(padded(whole))
        return np.concatenate([found[at, np.array(places[at]) - 1, np.array(whole[at])[places[at]]] for at in range(4)])

    exact, attend = logps(), decoder.attend
    monkeypatch.setattr(
        decoder, "attend", lambda query, key, value, *rest: attend(query, *kept(key, value, kind), *rest)
    )
    ours, rounded = np.concatenate(told), logps()
    # Quantiles, because float32 may round a number on the edge between two steps to either.
    assert np.quantile(np.abs(ours - rounded), 0.8) < 1e-4
    assert np.quantile(np.abs(ours - exact), 0.2) > 2e-4
    assert np.abs(ours - exact).max() < exact.std()
