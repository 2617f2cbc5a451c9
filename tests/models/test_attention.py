"""The interval mask against attention over the ancestors that a tree's parents name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe_jax.errors import AloeError
from aloe_jax.models import attention
from aloe_jax.models.attention import attend
from aloe_jax.models.kernels import chunked, gpu, tpu
from tests.interval_attention import depths, inputs, random_tree


def over_ancestors(query, key, value, parents, window=10**6):
    """Plain numpy attention of one row [T,N,H]: each token sees the last `window` tokens of the path up to it, walked
    parent by parent."""
    out = np.zeros(query.shape)
    share = query.shape[1] // key.shape[1]
    for token in range(len(parents)):
        seen, at = [], token
        while at >= 0 and len(seen) < window:
            seen.append(at)
            at = parents[at]
        for head in range(query.shape[1]):
            scores = key[seen, head // share] @ query[token, head] / np.sqrt(query.shape[2])
            weights = np.exp(scores - scores.max())
            out[token, head] = weights / weights.sum() @ value[seen, head // share]
    return out


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6))
def test_interval_mask_is_ancestry(seed):
    rng = np.random.default_rng(seed)
    trees = [random_tree(rng, 23) for _ in range(2)]
    query, key, value = inputs(rng, 2, 23)
    ends = jnp.array([end for _, end in trees])
    expected = [over_ancestors(query[b], key[b], value[b], trees[b][0]) for b in range(2)]
    np.testing.assert_allclose(attend(query, key, value, ends, "dense"), expected, atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3, 5, 22, 23, 10**6]), st.sampled_from(["dense", "chunked"]))
def test_a_window_counts_along_the_path(seed, window, method):
    rng = np.random.default_rng(seed)
    trees = [random_tree(rng, 23) for _ in range(2)]
    query, key, value = inputs(rng, 2, 23)
    ends, positions = jnp.array([end for _, end in trees]), jnp.array([depths(parents) for parents, _ in trees])
    expected = [over_ancestors(query[b], key[b], value[b], trees[b][0], window) for b in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "BLOCK", 8)
        patch.setattr(chunked, "STRIP", 4)
        found = attend(query, key, value, ends, method, positions, window)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_subtree_ends_the_mask_is_causal():
    query, key, value = inputs(np.random.default_rng(0), 1, 21)
    expected = over_ancestors(query[0], key[0], value[0], [*range(-1, 20)])
    for method in ("dense", "chunked"):
        np.testing.assert_allclose(attend(query, key, value, method=method)[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("platform", "length", "kernel"),
    [("tpu", 64, (tpu, "interval_attention")), ("gpu", 5000, (gpu, "interval_attention")),
     ("cpu", 256, (attention, "_dense")), ("cpu", 257, (chunked, "interval_attention"))],
)  # fmt: skip
def test_auto_is_the_kernel_of_the_platform(monkeypatch, platform, length, kernel):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(*kernel, lambda *inputs: (kernel, *(None if x is None else x.shape for x in inputs[3:5])))
    row = jnp.zeros((1, length, 1, 8))
    assert attend(row, row, row, positions=jnp.zeros((1, length), int)) == (kernel, (1, length), (1, length))


def test_dense_attention_over_long_rows_is_refused():
    row = jax.ShapeDtypeStruct((1, 2049, 1, 8), jnp.float32)
    with pytest.raises(
        AloeError, match=r"model.attention: dense .* at most 2048 tokens, not 2049; use auto or chunked"
    ):
        jax.eval_shape(lambda q, k, v: attend(q, k, v, method="dense"), row, row, row)


def test_long_rows_hold_no_square_of_scores():
    length = 4096
    row = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)
    lowered = jax.jit(jax.grad(lambda q, k, v: attend(q, k, v).sum())).lower(row, row, row)
    assert f"{length}x{length}" not in lowered.as_text()
