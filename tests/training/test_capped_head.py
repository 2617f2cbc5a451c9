"""Capped logits (Gemma 2) in the chunked head: log-probs and gradients against plain float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aloe_jax.parallel.mesh import make_mesh, sharding
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.training.head import token_logps
from aloe_jax.training.logprobs import reply_logps

CAP = 3.0
ROWS, SCORED, WIDTH, VOCAB = 8, 12, 8, 48


@pytest.fixture(scope="module")
def inputs():
    """Logits of a deviation of about 3, so that the cap bends them; weights of both signs, some 0."""
    rng = np.random.default_rng(0)
    hidden, unembedding = rng.standard_normal((ROWS, SCORED, WIDTH)), rng.standard_normal((WIDTH, VOCAB))
    weight = np.where(rng.random((ROWS, SCORED)) < 0.2, 0.0, rng.standard_normal((ROWS, SCORED)))
    return hidden, unembedding, rng.integers(0, VOCAB, (ROWS, SCORED)), weight


def by_hand(hidden, unembedding, labels, weight, cap=CAP):
    """Log-probs and the gradients of their weighted sum, in float64 numpy, derived without regard to pieces."""
    logits = hidden @ unembedding
    bent = cap * np.tanh(logits / cap)
    shares = np.exp(bent - bent.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    label = np.eye(VOCAB)[labels]
    change = weight[..., None] * (label - shares) / np.cosh(logits / cap) ** 2
    logps = np.log((shares * label).sum(axis=-1))
    return logps, change @ unembedding.T, np.einsum("bsd,bsv->dv", hidden, change)


def computed(hidden, unembedding, labels, weight, piece, cap=CAP):
    def total(hidden, unembedding):
        logps = token_logps(hidden, unembedding, labels, piece, cap)
        return (logps * weight).sum(), logps

    (_, logps), gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(hidden, unembedding)
    return jax.device_get((logps, *gradients))


@pytest.mark.parametrize("piece", [7, None])
def test_the_cap_is_in_the_gradient(inputs, piece):
    hidden, unembedding, labels, weight = inputs
    narrow = [jnp.asarray(x, jnp.float32) for x in (hidden, unembedding)]
    for got, want in zip(computed(*narrow, labels, weight.astype(np.float32), piece), by_hand(*inputs), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    uncapped = by_hand(*inputs, cap=1e9)
    assert all(np.abs(a - b).max() > 0.1 for a, b in zip(uncapped, by_hand(*inputs), strict=True))


def test_in_float64_the_gradient_is_exact_to_rounding(inputs):
    with jax.enable_x64(True):
        found = computed(*map(jnp.asarray, inputs[:2]), *inputs[2:], piece=11)
        for got, want in zip(found, by_hand(*inputs), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)


def test_on_a_mesh(inputs):
    hidden, unembedding, labels, weight = inputs
    mesh = make_mesh(MeshSettings(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        spread = [
            jax.device_put(np.asarray(x, dtype), sharding(mesh, axes, x.shape))
            for x, dtype, axes in (
                (hidden, np.float32, ("batch", None, None)), (unembedding, np.float32, ("width", "vocab")),
                (labels, np.int32, ("batch", None)), (weight, np.float32, ("batch", None)),
            )
        ]  # fmt: skip
        found = computed(*spread, piece=5)
    for got, want in zip(found, by_hand(*inputs), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_a_models_cap_reaches_its_replies_log_probs(inputs):
    """What a model tells as `final_cap` bends the logits of `reply_logps`, and their gradient."""
    hidden, unembedding, _, _ = inputs
    batch = {
        "tokens": np.arange(ROWS * SCORED).reshape(ROWS, SCORED) % VOCAB,
        "positions": np.broadcast_to(np.arange(SCORED), (ROWS, SCORED)),
        "subtree_end": np.full((ROWS, SCORED), SCORED),
        "parent": np.broadcast_to(np.maximum(np.arange(SCORED) - 1, 0), (ROWS, SCORED)),
        "reply": np.broadcast_to(np.where(np.arange(SCORED) < 4, 0, 1), (ROWS, SCORED)),
        "reply_length": np.full((ROWS, 2), SCORED - 4),
    }

    class Model:
        final_cap = CAP

        def __init__(self, states):
            self.states = states

        def hidden(self, *_):
            return self.states

        def unembedding(self):
            return jnp.asarray(unembedding, jnp.float32)

    def total(states):
        return reply_logps(Model(states), batch)[:, 1].sum()

    value, gradient = jax.value_and_grad(total)(jnp.asarray(hidden, jnp.float32))
    before, weight = hidden[:, :-1], np.broadcast_to(np.arange(1, SCORED) >= 4, (ROWS, SCORED - 1)).astype(float)
    logps, expected, _ = by_hand(before, unembedding, batch["tokens"][:, 1:], weight)
    np.testing.assert_allclose(value, (logps * weight).sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient[:, :-1], expected, rtol=1e-4, atol=1e-5)
