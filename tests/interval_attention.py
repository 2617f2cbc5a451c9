"""Rows of random trees for attention kernels, and kernels held against dense attention."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np

from aloe_jax.models.attention import attend


def random_tree(rng, length):
    """Parents and exclusive subtree ends of `length` tokens in depth-first order; some tokens start new trees."""
    parents, path = [], []
    for token in range(length):
        keep = rng.integers(0, len(path) + 1) if rng.random() < 0.3 else len(path)
        del path[keep:]
        parents.append(path[-1] if path else -1)
        path.append(token)
    ends = [token + 1 for token in range(length)]
    for token in reversed(range(length)):
        if parents[token] >= 0:
            ends[parents[token]] = max(ends[parents[token]], ends[token])
    return parents, np.array(ends, np.int32)


def depths(parents):
    """Of every token, how many come before it on its path."""
    found = []
    for parent in parents:
        found.append(found[parent] + 1 if parent >= 0 else 0)
    return found


def inputs(rng, batch, length, heads=4, kv_heads=2, size=8):
    shapes = [(batch, length, heads, size), (batch, length, kv_heads, size), (batch, length, kv_heads, size)]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def packed_rows(rng, batch, length, padding=0):
    """Subtree ends and positions [B,T] of random forests, after which `padding` tokens see only themselves."""
    trees = [random_tree(rng, length - padding) for _ in range(batch)]
    own = np.arange(length - padding, length) + 1
    ends = np.array([np.concatenate([end, own]) for _, end in trees], np.int32)
    positions = np.array([depths(parents) + [0] * padding for parents, _ in trees], np.int32)
    return ends, positions


def dense_mask(ends, positions=None, window=None):
    """Which query sees which key, bool [B,T,T]."""
    at = np.arange(ends.shape[1])
    seen = (at <= at[:, None]) & (at[:, None] < ends[:, None])
    return seen if window is None else seen & (positions[:, :, None] - positions[:, None] < window)


def outcome(attention, mesh=None):
    """A compiled (qkv, weights, *mask) -> attention's output and the gradients of its sum under `weights`, by name."""

    def weighted(qkv, weights, *mask):
        out = attention(*qkv, *mask)
        return (out * weights).sum(), out

    @jax.jit
    def both(qkv, weights, *mask):
        (_, out), gradients = jax.value_and_grad(weighted, has_aux=True)(qkv, weights, *mask)
        return dict(zip(("out", "query", "key", "value"), (out, *gradients), strict=True))

    def run(*arguments):
        with jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext():
            return jax.device_get(both(*arguments))

    return run


def differences(kernel, shape, windows=(None,), padding=5, mesh=None, change=lambda ends: ends):
    """How far `kernel` is from dense attention: the furthest value of each array, relative to its largest.

    shape: rows, tokens, query heads, key heads, head size. One draw of trees and inputs for every window; either all
    of them are None or none is. `change` is done to the subtree ends that the kernel is given.
    """
    found = outcome(kernel, mesh)
    expected = outcome(lambda q, k, v, ends, *place: attend(q, k, v, ends, "dense", *place))
    worst = dict.fromkeys(("out", "query", "key", "value"), 0.0)
    for seed, window in enumerate(windows):
        rng = np.random.default_rng(seed)
        ends, positions = packed_rows(rng, *shape[:2], padding)
        qkv = tuple(inputs(rng, *shape))
        weights = rng.standard_normal(qkv[0].shape).astype(np.float32)
        place = () if window is None else (positions, jnp.int32(window))
        ours, theirs = found(qkv, weights, change(ends), *place), expected(qkv, weights, ends, *place)
        for name, values in theirs.items():
            far = float(np.abs(ours[name] - values).max() / np.abs(values).max())
            worst[name] = max(worst[name], far if np.isfinite(far) else np.inf)
    return worst
