import jax.numpy as jnp
import numpy as np
import pytest

from aloe_jax.sampling.draw import CUT, Settings, cut, draw


def kept(logits, top_k=0, top_p=1.0):
    """Indices that survive, by sorting: the plain definition."""
    order = np.argsort(-logits)
    order = order[: top_k or len(order)]
    probabilities = np.exp(logits[order] - logits.max())
    probabilities /= probabilities.sum()
    before = np.cumsum(probabilities) - probabilities
    return set(order[(before < top_p) | (top_p == 1.0)].tolist())


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (1, 1.0), (7, 1.0), (0, 0.3), (0, 0.95), (9, 0.8), (500, 0.5)])
def test_cuts_equal_sorting(top_k, top_p):
    logits = np.random.default_rng(0).standard_normal((6, 60)).astype(np.float32) * 3
    left = np.asarray(cut(jnp.array(logits), jnp.int32(min(top_k, 60)), jnp.float32(top_p)))
    for row, values in zip(logits, left, strict=True):
        expected = kept(row, min(top_k, 60), top_p)
        assert set(np.flatnonzero(values > CUT).tolist()) == expected
        assert all(values[i] == row[i] for i in expected)


def test_top_k_beyond_the_vocabulary_keeps_all():
    logits = jnp.array([[0.5, -3.0, 2.0]])
    assert (cut(logits, jnp.int32(10), jnp.float32(1.0)) == logits).all()


def test_frequencies_follow_the_distribution():
    rows = 4000
    logits = jnp.tile(jnp.log(jnp.array([[0.5, 0.3, 0.2]])), (rows, 1))
    settings = Settings(jnp.float32(2.0), jnp.int32(0), jnp.float32(1.0))
    tokens = draw(logits, settings, jnp.arange(rows, dtype=jnp.uint32), jnp.zeros(rows, jnp.int32))
    expected = np.sqrt([0.5, 0.3, 0.2])
    np.testing.assert_allclose(np.bincount(tokens) / rows, expected / expected.sum(), atol=0.03)


def test_positions_draw_anew_and_zero_is_greedy():
    logits = jnp.zeros((64, 50)).at[:, 7].set(1e-3)
    seeds = jnp.zeros(64, jnp.uint32)
    hot = Settings(jnp.float32(1.0), jnp.int32(0), jnp.float32(1.0))
    cold = Settings(jnp.float32(0.0), jnp.int32(0), jnp.float32(1.0))
    assert len(set(draw(logits, hot, seeds, jnp.arange(64)).tolist())) > 20
    assert set(draw(logits, cold, seeds, jnp.arange(64)).tolist()) == {7}
