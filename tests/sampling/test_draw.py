import jax.numpy as jnp
import numpy as np
import pytest

from aloe_jax.errors import AloeError
from aloe_jax.sampling.draw import CUT, checked_settings, cut, draw, likeliest, penalised


def settings(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0):
    return checked_settings(temperature, top_k, top_p, min_p, repetition_penalty)


def kept(logits, top_k=0, top_p=1.0, min_p=0.0):
    """Indices that survive, by sorting: the plain definition."""
    order = np.argsort(-logits)
    order = order[: top_k or len(order)]
    probabilities = np.exp(logits[order] - logits.max())
    probabilities /= probabilities.sum()
    before = np.cumsum(probabilities) - probabilities
    likely = probabilities >= min_p * probabilities.max()
    return set(order[((before < top_p) | (top_p == 1.0)) & likely].tolist())


@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [
        (0, 1.0, 0.0),
        (1, 1.0, 0.0),
        (7, 1.0, 0.0),
        (0, 0.3, 0.0),
        (0, 0.95, 0.0),
        (9, 0.8, 0.0),
        (500, 0.5, 0.0),
        (0, 1.0, 0.02),
        (0, 0.98, 0.3),
    ],
)
def test_cuts_equal_sorting(top_k, top_p, min_p):
    logits = np.random.default_rng(0).standard_normal((6, 60)).astype(np.float32) * 3
    left = np.asarray(cut(jnp.array(logits), settings(top_k=min(top_k, 60), top_p=top_p, min_p=min_p)))
    sizes = set()
    for row, values in zip(logits, left, strict=True):
        expected = kept(row, min(top_k, 60), top_p, min_p)
        assert set(np.flatnonzero(values > CUT).tolist()) == expected
        assert all(values[i] == row[i] for i in expected)
        sizes.add(len(expected))
    assert min_p == 0 or max(sizes) < 60


def test_top_k_beyond_the_vocabulary_keeps_all():
    logits = jnp.array([[0.5, -3.0, 2.0]])
    assert (cut(logits, settings(top_k=10)) == logits).all()


def test_frequencies_follow_the_distribution():
    rows = 4000
    logits = jnp.tile(jnp.log(jnp.array([[0.5, 0.3, 0.2]])), (rows, 1))
    tokens, _ = draw(logits, settings(2.0), jnp.arange(rows, dtype=jnp.uint32), jnp.zeros(rows, jnp.int32))
    expected = np.sqrt([0.5, 0.3, 0.2])
    np.testing.assert_allclose(np.bincount(tokens) / rows, expected / expected.sum(), atol=0.03)


def test_positions_draw_anew_and_zero_is_greedy():
    logits = jnp.zeros((64, 50)).at[:, 7].set(1e-3)
    seeds = jnp.zeros(64, jnp.uint32)
    assert len(set(draw(logits, settings(1.0), seeds, jnp.arange(64))[0].tolist())) > 20
    assert set(draw(logits, settings(0.0), seeds, jnp.arange(64))[0].tolist()) == {7}


def test_the_likeliest_is_the_first_of_equals_and_always_a_token():
    logits = jnp.array([[1.0, 3.0, 3.0], [-1.0, -2.0, -1.0], [0.0, np.nan, 9.0]])
    assert likeliest(logits).tolist() == [1, 0, 2]


def test_the_penalty_is_that_of_transformers():
    logits = np.array([[2.0, -2.0, 1.0, 0.5], [2.0, -2.0, 1.0, 0.5]], np.float32)
    context, seen = jnp.array([[0, 1, 0], [3, 1, 2]]), jnp.array([[True, True, True], [True, False, False]])
    # RepetitionPenaltyLogitsProcessor: score * penalty where it is negative, else score / penalty; once a token.
    assert penalised(jnp.array(logits), context, seen, 4.0).tolist() == [[0.5, -8.0, 1.0, 0.5], [2.0, -2.0, 1.0, 0.125]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1.0}, r"temperature is -1\.0 and must not be negative"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, r"top_p is 0\.0 and must be in \(0, 1\]"),
        ({"min_p": 1.0}, r"min_p is 1\.0 and must be in \[0, 1\)"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty is 0\.0 and must be positive"),
    ],
)
def test_values_without_meaning_are_named(values, message):
    with pytest.raises(AloeError, match=message):
        settings(**values)
