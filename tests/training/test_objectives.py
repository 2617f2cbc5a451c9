"""Objectives against closed forms and by-hand arithmetic."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aloe_jax import config
from aloe_jax.training.objectives import dpo_loss, for_stage, gather_pairs, preferred_nll, sft_loss

POLICY = jnp.array([[[-5.0, -6.0], [-7.0, -4.0]]])
REFERENCE = jnp.array([[[-5.5, -5.5], [-7.0, -5.0]]])
DELTAS = (1.0, -1.0)  # (policy - reference) of the preferred minus that of the rejected


def softplus(x):
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("loss", "smoothing", "expected"),
    [
        ("sigmoid", 0.0, lambda d, b: softplus(-b * d)),
        ("sigmoid", 0.2, lambda d, b: 0.8 * softplus(-b * d) + 0.2 * softplus(b * d)),
        ("ipo", 0.0, lambda d, b: (d - 1 / (2 * b)) ** 2),
        ("hinge", 0.0, lambda d, b: max(0.0, 1 - b * d)),
    ],
)
def test_losses_by_hand(loss, smoothing, expected):
    value, metrics = dpo_loss(POLICY, REFERENCE, 0.5, loss=loss, label_smoothing=smoothing)
    np.testing.assert_allclose(value, np.mean([expected(d, 0.5) for d in DELTAS]), rtol=1e-6)
    np.testing.assert_allclose(metrics["margin"], 0.0, atol=1e-6)
    assert metrics["accuracy"] == 0.5
    np.testing.assert_allclose(metrics["reward_preferred"], 0.5 * np.mean([0.5, 0.0]), rtol=1e-6)


def test_policy_equal_to_reference_costs_log_two():
    value, metrics = dpo_loss(POLICY, POLICY, 0.1)
    np.testing.assert_allclose(value, math.log(2), rtol=1e-6)
    assert metrics["accuracy"] == 0.0


def test_weights_leave_pairs_out():
    kept, metrics = dpo_loss(POLICY, REFERENCE, 0.5, weights=jnp.array([[1.0, 0.0]]))
    np.testing.assert_allclose(kept, softplus(-0.5 * DELTAS[0]), rtol=1e-6)
    assert metrics["count"] == 1 and metrics["accuracy"] == 1
    nothing, metrics = dpo_loss(POLICY, REFERENCE, 0.5, weights=jnp.zeros((1, 2)))
    assert nothing == 0 and metrics["count"] == 0


def test_gradient_pushes_the_two_replies_apart():
    gradient = jax.grad(lambda policy: dpo_loss(policy, REFERENCE, 0.5)[0])(POLICY)
    assert (gradient[..., 0] < 0).all() and (gradient[..., 1] > 0).all()
    np.testing.assert_allclose(gradient[..., 0], -gradient[..., 1], rtol=1e-6)


def test_sft_normalisations():
    logps, lengths = jnp.array([[0.0, -6.0, -2.0]]), jnp.array([[0, 3, 1]])
    loss, metrics = sft_loss(logps, lengths, "token")
    np.testing.assert_allclose(loss, 8 / 4)
    np.testing.assert_allclose(metrics["perplexity"], math.exp(2.0), rtol=1e-6)
    assert metrics["count"] == 4
    loss, metrics = sft_loss(logps, lengths, "sequence")
    np.testing.assert_allclose(loss, (6 / 3 + 2 / 1) / 2)
    assert metrics["count"] == 2


def test_gather_pairs():
    logps = jnp.arange(8.0).reshape(2, 4)
    pairs = jnp.array([[[1, 2]], [[3, 1]]])
    assert gather_pairs(logps, pairs).tolist() == [[[1.0, 2.0]], [[7.0, 5.0]]]


def test_the_preferred_reply_s_likelihood_by_hand():
    lengths = jnp.array([[[2, 3], [7, 1]]])
    np.testing.assert_allclose(preferred_nll(POLICY, lengths, jnp.ones((1, 2))), (5 / 2 + 7 / 7) / 2)
    np.testing.assert_allclose(preferred_nll(POLICY, lengths, jnp.array([[0.0, 1.0]])), 1.0)
    assert preferred_nll(POLICY, lengths, jnp.zeros((1, 2))) == 0
    gradient = jax.grad(lambda policy: preferred_nll(policy, lengths, jnp.ones((1, 2))))(POLICY)
    assert (gradient[..., 0] < 0).all() and (gradient[..., 1] == 0).all()


def test_the_stage_adds_it_by_weight():
    batch = {
        "pairs": jnp.array([[[1, 2]]]),
        "pair_turn": jnp.array([[1]]),
        "reply_length": jnp.array([[0, 4, 2]]),
        "reference": jnp.array([[[-5.0, -6.0]]]),
    }
    logps = jnp.array([[0.0, -6.0, -6.0]])

    def objective(**dpo):
        model, data = {"path": "m"}, {"path": "d"}
        made = {"stage": "dpo", "output": "o", "model": model, "data": data, "dpo": dpo}
        return for_stage(config.Train.model_validate(made))(logps, batch)

    plain, weighed = objective(), objective(sft_weight=0.5)
    np.testing.assert_allclose(weighed[0], plain[0] + 0.5 * 6 / 4, rtol=1e-6)
    np.testing.assert_allclose(weighed[1]["preferred_nll"], 1.5, rtol=1e-6)
    assert weighed[1]["loss"] == weighed[0] and "preferred_nll" not in plain[1]
