"""Objectives against closed forms and by-hand arithmetic."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aloe_jax.errors import AloeError
from aloe_jax.training.logprobs import Scores
from aloe_jax.training.preference_losses import PREFERENCE_LOSSES
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages.dpo import dpo_loss, gather_pairs, preferred_nll
from aloe_jax.training.stages.sft import sft_loss
from aloe_jax.training.stages.stage import stage_of
from aloe_jax.training.totals import Mean, add, read

POLICY = jnp.array([[[-5.0, -6.0], [-7.0, -4.0]]])
REFERENCE = jnp.array([[[-5.5, -5.5], [-7.0, -5.0]]])
DELTAS = (1.0, -1.0)  # (policy - reference) of the preferred minus that of the rejected


LENGTHS = jnp.array([[[2, 3], [7, 2]]])


def softplus(x):
    return math.log1p(math.exp(x))


def log_odds(mean_logp):
    return mean_logp - math.log(1 - math.exp(mean_logp))


@pytest.mark.parametrize(
    ("loss", "smoothing", "expected"),
    [
        ("sigmoid", 0.0, lambda d, b: softplus(-b * d)),
        ("sigmoid", 0.2, lambda d, b: 0.8 * softplus(-b * d) + 0.2 * softplus(b * d)),
        ("ipo", 0.0, lambda d, b: (d - 1 / (2 * b)) ** 2),
        ("hinge", 0.0, lambda d, b: max(0.0, 1 - b * d)),
        ("robust", 0.0, lambda d, b: softplus(-b * d)),
        ("robust", 0.2, lambda d, b: (0.8 * softplus(-b * d) - 0.2 * softplus(b * d)) / 0.6),
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
    np.testing.assert_allclose(dpo_loss(POLICY, REFERENCE, 0.5, weights=jnp.array([[0.1, 0.0]]))[0], kept, rtol=1e-6)
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


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("ipo", lambda p, r: (p - r - 1 / (2 * 0.5)) ** 2),
        ("length_normalised", lambda p, r: softplus(-0.5 * (p - r))),
    ],
)
def test_losses_per_token_by_hand(loss, expected):
    ratios = [(0.5 / 2, -0.5 / 3), (0.0 / 7, 1.0 / 2)]  # (policy - reference) / length
    value, metrics = dpo_loss(POLICY, REFERENCE, 0.5, loss=loss, lengths=LENGTHS)
    np.testing.assert_allclose(value, np.mean([expected(*pair) for pair in ratios]), rtol=1e-6)
    np.testing.assert_allclose(metrics["margin"], 0.5 * np.mean([p - r for p, r in ratios]), rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("simpo", lambda p, r: softplus(0.3 - 2.0 * (p - r))),
        ("orpo", lambda p, r: -p + 2.0 * softplus(log_odds(r) - log_odds(p))),
    ],
)
def test_losses_without_a_reference_by_hand(loss, expected):
    means = [(-5 / 2, -6 / 3), (-7 / 7, -4 / 2)]
    value, metrics = dpo_loss(POLICY, None, 2.0, loss=loss, gamma=0.3, lengths=LENGTHS)
    np.testing.assert_allclose(value, np.mean([expected(*pair) for pair in means]), rtol=1e-6)
    np.testing.assert_allclose(metrics["reward_preferred"], 2.0 * np.mean([-2.5, -1.0]), rtol=1e-6)
    assert metrics["accuracy"] == 0.5


def test_smoothing_of_every_loss_that_takes_it():
    first = {"lengths": LENGTHS, "weights": jnp.array([[1.0, 0.0]])}
    for loss, entry in PREFERENCE_LOSSES.items():
        sharp, smooth = (
            dpo_loss(POLICY, REFERENCE, 0.5, loss=loss, label_smoothing=share, **first)[0] for share in (0.0, 0.2)
        )
        assert bool(sharp != smooth) == entry.smooths, loss


def test_robust_is_unbiased_under_flipped_labels():
    """Pairs of which a share ε stands the wrong way round cost, on average, what DPO says of the clean ones."""
    clean, wrong = (dpo_loss(p, r, 0.5, loss="robust", label_smoothing=0.2)[0] for p, r in
                    ((POLICY, REFERENCE), (POLICY[..., ::-1], REFERENCE[..., ::-1])))  # fmt: skip
    np.testing.assert_allclose(0.8 * clean + 0.2 * wrong, dpo_loss(POLICY, REFERENCE, 0.5)[0], rtol=1e-5)


def test_which_losses_have_a_reference():
    assert {loss for loss in PREFERENCE_LOSSES if not PREFERENCE_LOSSES[loss].reference} == {"simpo", "orpo"}
    with pytest.raises(ValueError, match="hinge needs the reference"):
        dpo_loss(POLICY, None, 0.5, loss="hinge")


def test_a_certain_reply_has_finite_odds():
    """Log-odds and their gradient at probabilities of 1 and next to 0, where they would be infinite or vanish."""
    policy = jnp.array([[[0.0, -1e-9], [-900.0, 0.0], [-1e-9, -900.0]]])
    loss, gradient = jax.value_and_grad(
        lambda p: dpo_loss(p, None, 0.5, loss="orpo", lengths=jnp.full((1, 3, 2), 4))[0]
    )(policy)
    assert jnp.isfinite(loss) and jnp.isfinite(gradient).all()


# ---------------------------------------------------------------- objectives of a stage

TURNS = 4


def settings(stage="dpo", **section):
    made = {"stage": stage, "output": "o", "model": {"path": "m"}, "data": {"path": "d"}, stage: section}
    return TrainSettings.model_validate(made)


def draw(rows, pairs, seed=0):
    """A batch with a ragged number of pairs a row, none at all in row 1, and its log-probs [B, R]."""
    random = np.random.default_rng(seed)
    replies = 2 * pairs + 1
    lengths = random.integers(1, 9, (rows, replies))
    numbers = np.stack([random.permutation(np.arange(1, replies)).reshape(pairs, 2) for _ in range(rows)])
    turn = random.integers(1, TURNS + 1, (rows, pairs))
    for row in range(rows):
        kept = 0 if row == 1 else random.integers(1, pairs + 1)
        turn[row, kept:], numbers[row, kept:], lengths[row, 2 * kept + 1 :] = 0, 0, 0
        numbers[row, :kept] = 1 + np.arange(2 * kept).reshape(kept, 2)
    lengths[:, 0] = 0
    logps = np.where(lengths > 0, -random.gamma(2.0, 1.0, lengths.shape) * lengths, 0.0)
    reference = np.take_along_axis(logps, numbers.reshape(rows, -1), 1).reshape(numbers.shape)
    reference = reference + random.normal(size=reference.shape) * (turn > 0)[..., None]
    batch = {"pairs": numbers, "pair_turn": turn, "reply_length": lengths, "reference": reference}
    batch = {name: jnp.asarray(v, jnp.float32 if name == "reference" else jnp.int32) for name, v in batch.items()}
    return jnp.asarray(logps, jnp.float32), batch


def evaluate(objective, logps, batch):
    """Totals and the gradient of the loss's total."""

    def total(logps):
        totals = objective(Scores.of_replies(logps), batch)
        return totals["loss"].total, totals

    (_, totals), gradient = jax.value_and_grad(total, has_aux=True)(logps)
    return totals, gradient


OBJECTIVES = [settings("sft"), settings("sft", normalise="sequence")] + [
    settings("dpo", loss=loss, sft_weight=0.3, turn_weights=(0.5, 0.0, 2.0)) for loss in PREFERENCE_LOSSES
]


@pytest.mark.parametrize("made", OBJECTIVES, ids=["token", "sequence", *PREFERENCE_LOSSES])
def test_parts_add_up_to_the_whole(made):
    objective = stage_of(made).objective(TURNS)
    logps, batch = draw(6, 5)
    totals, gradient = evaluate(objective, logps, batch)
    parts = [slice(0, 1), slice(1, 2), slice(2, 4), slice(4, 6)]  # the second without any pair
    cut = [evaluate(objective, logps[part], {name: v[part] for name, v in batch.items()}) for part in parts]
    summed = cut[0][0]
    for part, _ in cut[1:]:
        summed = add(summed, part)
    assert read(summed).keys() == read(totals).keys()
    for name, value in read(totals).items():
        np.testing.assert_allclose(read(summed)[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    together = jnp.concatenate([part for _, part in cut]) / summed["loss"].weight
    assert jnp.isfinite(together).all() and (together != 0).any()
    np.testing.assert_allclose(together, gradient / totals["loss"].weight, rtol=1e-6, atol=1e-8)
    whole = jax.grad(
        lambda x: (
            objective(Scores.of_replies(x), batch)["loss"].total / objective(Scores.of_replies(x), batch)["loss"].weight
        )
    )(logps)
    np.testing.assert_allclose(together, whole, rtol=1e-5, atol=1e-8)
    # The mean of the parts' means is something else: the control.
    means = [read(part)["loss"] for part, _ in cut if part["loss"].weight]
    assert abs(np.mean(means) - read(totals)["loss"]) > 1e-3


@pytest.mark.parametrize("loss", PREFERENCE_LOSSES)
def test_the_stage_is_the_public_call(loss):
    logps, batch = draw(6, 5)
    pairs, lengths = (gather_pairs(x, batch["pairs"]) for x in (logps, batch["reply_length"]))
    values = read(stage_of(settings(loss=loss, beta=0.7, gamma=0.4)).objective()(Scores.of_replies(logps), batch))
    _, metrics = dpo_loss(
        pairs, batch["reference"], 0.7, loss=loss, gamma=0.4, lengths=lengths,
        weights=(batch["pair_turn"] > 0).astype(jnp.float32),
    )  # fmt: skip
    for name in ("loss", "margin", "accuracy", "reward_preferred", "reward_rejected"):
        np.testing.assert_allclose(values[name], metrics[name], rtol=1e-6)
    assert ("drift" in values) == PREFERENCE_LOSSES[loss].reference


def one_tree(**extra):
    """Three turns with a pair each: log-probs and batch, by hand."""
    batch = {
        "pairs": jnp.array([[[1, 2], [3, 4], [6, 5], [0, 0]]]),
        "pair_turn": jnp.array([[1, 2, 3, 0]]),
        "reply_length": jnp.array([[0, 2, 4, 1, 5, 3, 2]]),
        "reference": jnp.array([[[-2.0, -3.0], [-1.0, -6.0], [-4.0, -2.0], [0.0, 0.0]]]),
    }
    return jnp.array([[0.0, -1.0, -5.0, -2.0, -6.5, -3.0, -3.5]]), batch | extra


def test_statistics_by_turn_by_hand():
    logps, batch = one_tree()
    values = read(stage_of(settings(beta=2.0)).objective(4)(Scores.of_replies(logps), batch))
    # log-ratios: turn 1 (1, -2), turn 2 (-1, -0.5), turn 3 (0.5, -1)
    expected = {"margin": [6.0, -1.0, 3.0], "accuracy": [1.0, 0.0, 1.0], "reward_preferred": [2.0, -2.0, 1.0],
                "reward_rejected": [-4.0, -1.0, -2.0]}  # fmt: skip
    for name, by_turn in expected.items():
        np.testing.assert_allclose([values[f"{name}/turn_{k:02d}"] for k in (1, 2, 3)], by_turn, rtol=1e-6)
        np.testing.assert_allclose(values[name], np.mean(by_turn), rtol=1e-6)
        assert f"{name}/turn_04" not in values  # no pair is so deep
    drift = [values[f"drift/turn_{k:02d}"] for k in (1, 2, 3)]
    np.testing.assert_allclose(drift, [1.0 / 6, 1.5 / 6, 0.5 / 5], rtol=1e-6)
    np.testing.assert_allclose(values["drift"], 3.0 / 17, rtol=1e-6)
    np.testing.assert_allclose(values["preferred_nll"], (1 / 2 + 2 / 1 + 3.5 / 2) / 3, rtol=1e-6)

    first = read(
        stage_of(settings(beta=2.0)).objective(1)(Scores.of_replies(logps), batch)
    )  # deeper pairs still count in the overall means
    assert "margin/turn_02" not in first and first["margin"] == values["margin"]
    assert not any(
        "turn" in name for name in read(stage_of(settings(beta=2.0)).objective()(Scores.of_replies(logps), batch))
    )


def test_turn_weights_weigh_the_loss_and_nothing_else():
    logps, batch = one_tree()
    plain = read(stage_of(settings(beta=2.0)).objective(3)(Scores.of_replies(logps), batch))
    costs = [softplus(-6.0), softplus(1.0), softplus(-3.0)]
    np.testing.assert_allclose(plain["loss"], np.mean(costs), rtol=1e-6)
    for weights, each in (((1.0, 3.0), (1, 3, 3)), ((0.0, 0.0, 5.0), (0, 0, 5)), ((2.0,), (2, 2, 2))):
        weighed = read(stage_of(settings(beta=2.0, turn_weights=weights)).objective(3)(Scores.of_replies(logps), batch))
        np.testing.assert_allclose(weighed.pop("loss"), np.average(costs, weights=each), rtol=1e-6)
        assert weighed == {name: value for name, value in plain.items() if name != "loss"}


def test_the_stage_adds_the_likelihood_by_weight():
    logps, batch = one_tree()
    plain, weighed = (
        read(stage_of(settings(sft_weight=w, turn_weights=(1, 2, 0))).objective()(Scores.of_replies(logps), batch))
        for w in (0.0, 0.5)
    )
    np.testing.assert_allclose(weighed["loss"], plain["loss"] + 0.5 * (0.5 + 2 * 2.0) / 3, rtol=1e-6)


def test_settings_without_effect_are_refused():
    with pytest.raises(AloeError, match=r"dpo\.label_smoothing: hinge does not smooth.*sigmoid, robust"):
        stage_of(settings(loss="hinge", label_smoothing=0.1)).objective()
    with pytest.raises(AloeError, match=r"dpo\.turn_weights: all are 0"):
        stage_of(settings(turn_weights=(0.0, 0.0))).objective()


def test_reading_totals():
    totals = {
        "nll": Mean(jnp.float32(3.0), jnp.float32(2.0)),
        "nothing": Mean(jnp.float32(0.0), jnp.float32(0.0)),
        "margin/turn": Mean(jnp.array([1.0, 0.0, 4.0]), jnp.array([2.0, 0.0, 1.0])),
    }
    assert read(totals) == pytest.approx(
        {"nll": 1.5, "perplexity": math.exp(1.5), "margin/turn_01": 0.5, "margin/turn_03": 4.0}
    )
    with pytest.raises(ValueError):
        add(totals, {"nll": totals["nll"]})
