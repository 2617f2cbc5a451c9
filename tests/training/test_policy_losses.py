"""Policy losses on token trees against the same replies as separate sequences, formula by formula."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from aloe_jax.models.native.decoder import DecoderSpec
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.rollouts.batch import BatchShape, batch_of
from aloe_jax.training.logprobs import score
from aloe_jax.training.master import MasterCopies
from aloe_jax.training.policy_losses import POLICY_LOSSES, PolicyConstants, policy_objective
from aloe_jax.training.step import new_state, train_step
from aloe_jax.training.totals import divided, read
from tests.random_models import random_decoder
from tests.random_rollouts import STOP, paths, random_rollout

SPEC = DecoderSpec(
    vocab=97, layers=2, width=32, query_heads=4, kv_heads=2, head_size=8, feed_forward=64, max_length=64,
    tie_embeddings=True,
)  # fmt: skip
GRAPH, _STATE = nnx.split(random_decoder(SPEC, 0.2), nnx.Param)
PARAMS = nnx.to_pure_dict(_STATE)
SHAPE = BatchShape(rows=8, length=160, rollouts=4, groups=5, group=3, parts=2)
PATH = 64


def constants(**changes):
    given = {
        "beta": 0.3,
        "clip_low": 0.2,
        "clip_high": 0.28,
        "normalise": "constant",
        "most_tokens": 7,
        "kl": 0.0,
        "entropy": 0.0,
    }
    return PolicyConstants(**given | changes)


def with_policy_logps(rollouts, noise, random):
    """The rollouts with log-probs near those of the model, as a sampler of a slightly older policy would have them."""
    for rollout in rollouts:
        known = paths(rollout)
        for turn, group in enumerate(rollout.groups):
            made = []
            for g, sibling in enumerate(group.siblings):
                tokens, length = known[f"{rollout.id}/{turn}/{g}"]
                logps = np.asarray(sequence_scores(PARAMS, padded([tokens]))[0])[0, len(tokens) - length : len(tokens)]
                moved = logps + noise * random.normal(size=length)
                made.append(type(sibling)(sibling.tokens, tuple(moved.tolist()), sibling.text, sibling.ended))
            group.siblings = tuple(made)
    return rollouts


def padded(sequences):
    tokens = np.zeros((len(sequences), PATH), np.int32)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = sequence
    return tokens


@jax.jit
def sequence_scores(params, tokens):
    """Of every token of separate sequences, the first excepted: log-prob and entropy before it, from whole logits."""
    model = nnx.merge(GRAPH, params)
    every = jax.nn.log_softmax(model.hidden(tokens) @ model.unembedding())[:, :-1]
    own = jnp.take_along_axis(every, tokens[:, 1:, None], axis=-1)[..., 0]
    entropy = -(jnp.exp(every) * every).sum(-1)
    return jnp.pad(own, ((0, 0), (1, 0))), jnp.pad(entropy, ((0, 0), (1, 0)))


def as_sequences(rollouts, reference):
    """Every reply that is learned from as a sequence: tokens [n, PATH], and by position what is its own."""
    known = {name: path for rollout in rollouts for name, path in paths(rollout).items()}
    count = 4 * 5 * 3
    arrays = {"tokens": np.zeros((count, PATH), np.int32), "advantage": np.zeros(count, np.float32)}
    arrays |= {name: np.zeros((count, PATH), np.float32) for name in ("own", "old", "reference")}
    arrays["pairs"] = np.zeros((4 * 5, 2), np.int32)  # the sequences of best and worst, twice the same: no pair
    row, pair = 0, 0
    for rollout in rollouts:
        for turn, group in enumerate(rollout.groups):
            sequences = {}
            for g, sibling in enumerate(group.siblings):
                if group.rewards is None or not sibling.ended:
                    continue
                key = f"{rollout.id}/{turn}/{g}"
                ids, length = known[key]
                own = slice(len(ids) - length, len(ids))
                arrays["tokens"][row, : len(ids)] = ids
                arrays["own"][row, own] = 1
                arrays["old"][row, own], arrays["reference"][row, own] = sibling.logps, reference[key]
                arrays["advantage"][row] = group.rewards[g] - sum(group.rewards) / len(group.rewards)
                sequences[g] = row
                row += 1
            ranked = sorted(sequences, key=lambda g: -group.rewards[g])  # of equals the first drawn comes first
            if ranked and group.rewards[ranked[0]] > group.rewards[ranked[-1]]:
                worst = min(sequences, key=lambda g: group.rewards[g])
                arrays["pairs"][pair] = sequences[ranked[0]], sequences[worst]
                pair += 1
    return arrays


def plain_loss(name, given):
    """(params, sequences) -> the loss, a reply a sequence."""

    def loss(params, of):
        policy, entropy = sequence_scores(params, of["tokens"])
        own, advantage, lengths = of["own"], of["advantage"][:, None], of["own"].sum(axis=1, keepdims=True)
        there = lengths > 0
        lengths = jnp.maximum(lengths, 1)
        if name == "dpo":
            return online_dpo(policy, entropy, of, given)
        difference = jnp.where(own > 0, policy - of["old"], 0.0)
        low, high = 1 - given.clip_low, 1 + given.clip_high
        if name == "policy_gradient":
            costs = -advantage * policy
        elif name == "grpo":
            ratio = jnp.exp(difference)
            costs = -jnp.minimum(ratio * advantage, jnp.clip(ratio, low, high) * advantage)
        else:
            whole = jnp.exp(difference.sum(axis=1, keepdims=True) / lengths)
            costs = -jnp.minimum(whole * advantage, jnp.clip(whole, low, high) * advantage) * jnp.ones_like(own)
        behind = jnp.where(own > 0, of["reference"] - policy, 0.0)
        costs = (costs + given.kl * (jnp.exp(behind) - behind - 1) - given.entropy * entropy) * own
        if name == "gspo" or given.normalise == "sequence":
            return (costs / lengths).sum() / there.sum()
        return costs.sum() / (own.sum() if given.normalise == "token" else there.sum() * given.most_tokens)

    return jax.jit(jax.value_and_grad(loss))


def online_dpo(policy, entropy, of, given):
    """The mean over pairs of -log σ(β Δ), with the terms of a token as means over a reply, then over a pair."""
    whole = jnp.where(of["own"] > 0, policy - of["reference"], 0.0).sum(axis=1)
    better, worse = of["pairs"].T
    there = better != worse
    costs = jnp.log1p(jnp.exp(-given.beta * (whole[better] - whole[worse])))
    behind = jnp.where(of["own"] > 0, of["reference"] - policy, 0.0)
    of_tokens = (given.kl * (jnp.exp(behind) - behind - 1) - given.entropy * entropy) * of["own"]
    of_replies = of_tokens.sum(axis=1) / jnp.maximum(of["own"].sum(axis=1), 1)
    return ((costs + (of_replies[better] + of_replies[worse]) / 2) * there).sum() / there.sum()


def drawn(seed, noise):
    """Two rollouts that branch after the first turn, and two that do not, as a batch and as sequences."""
    random = np.random.default_rng(seed)
    made = [random_rollout(random, f"r{i}", dropped=0.2, branches=1 + i % 2) for i in range(4)]
    rollouts = with_policy_logps(made, noise, random)
    _, batch = batch_of(rollouts, SHAPE, STOP, "centred", mask_overlong=True)
    batch["reference_logps"] = np.where(batch["drawn_logps"] < 0, batch["drawn_logps"] - 0.3, 0).astype(np.float32)
    reference = {
        f"{rollout.id}/{turn}/{g}": np.array(sibling.logps) - 0.3
        for rollout in rollouts for turn, group in enumerate(rollout.groups) for g, sibling in enumerate(group.siblings)
    }  # fmt: skip
    return rollouts, {name: jnp.asarray(values) for name, values in batch.items()}, as_sequences(rollouts, reference)


def tree_loss(name, given):
    objective = policy_objective(name, given)

    def loss(params, batch):
        totals = objective(score(nnx.merge(GRAPH, params), batch, entropy=True)[0], batch)
        return divided(totals["loss"].total, totals["loss"].weight), totals

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def close(found, expected):
    """To 1e-5 of the largest of every array."""
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * float(np.abs(want).max()) + 1e-9)


@pytest.mark.parametrize(
    ("name", "normalise"),
    [
        ("grpo", "constant"),
        ("grpo", "token"),
        ("grpo", "sequence"),
        ("gspo", "constant"),
        ("policy_gradient", "token"),
        ("dpo", "constant"),
    ],
)
def test_losses_and_gradients_equal_those_of_separate_sequences(name, normalise):
    given = constants(normalise=normalise, kl=0.05, entropy=0.02)
    of_trees, of_sequences = tree_loss(name, given), plain_loss(name, given)
    for seed, noise in ((0, 0.0), (1, 0.3)):
        _, batch, sequences = drawn(seed, noise)
        (value, totals), gradient = of_trees(PARAMS, batch)
        close((value, gradient), of_sequences(PARAMS, sequences))
        gap = read(totals)["log_ratio"]
        assert gap < 1e-4 if noise == 0 else gap > 0.1


@pytest.mark.parametrize(("name", "parts"), [("grpo", 1), ("grpo", 2), ("grpo", 4), ("gspo", 2), ("dpo", 4)])
def test_several_updates_equal_those_of_separate_sequences(name, parts):
    """Three updates on one batch by a compiled step, some of its parts empty, against as many of plain gradients."""
    given = constants(kl=0.05, entropy=0.02)
    _, batch, sequences = drawn(2, 0.1)
    optimizer = MasterCopies(optax.sgd(0.5))
    mesh = make_mesh(MeshSettings(data=1, fsdp=1, tensor=1), jax.devices()[:1])
    with jax.set_mesh(mesh):
        state = new_state(jax.tree.map(jnp.copy, PARAMS), optimizer, mesh)
        step = train_step(
            GRAPH, policy_objective(name, given), optimizer, state, mesh, parts=parts, passes=3, entropy=True, gaps=True
        )
        after, totals = step(state, batch)
    expected, loss = PARAMS, plain_loss(name, given)
    for _ in range(3):
        expected = jax.tree.map(lambda x, g: x - 0.5 * g, expected, loss(expected, sequences)[1])
    moved = jax.tree.map(lambda x, y: x - y, after["params"], PARAMS)
    wanted = jax.tree.map(lambda x, y: x - y, expected, PARAMS)
    for got, want in zip(jax.tree.leaves(moved), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=2e-5 * float(np.abs(want).max()) + 1e-7)
    values = read(totals)
    assert 0.1 < values["log_ratio"] < 1.0  # of the first update only: that of the sampler
    assert values["entropy"] > 0 and values["kl"] >= 0


def test_dpo_reports_margin_and_accuracy_of_pairs():
    """Against the log-probs of the separate sequences, where the policy has moved away from the reference."""
    _, batch, sequences = drawn(5, 0.4)
    given = constants()
    (_, totals), _ = tree_loss("dpo", given)(PARAMS, batch)
    policy, _ = sequence_scores(PARAMS, sequences["tokens"])
    whole = ((np.asarray(policy) - sequences["reference"]) * sequences["own"]).sum(axis=1)
    margins = np.array([given.beta * (whole[one] - whole[other]) for one, other in sequences["pairs"] if one != other])
    values = read(totals)
    assert len(margins) > 5 and values["margin"] == pytest.approx(margins.mean(), rel=1e-4)
    assert values["accuracy"] == pytest.approx((margins > 0).mean()) and 0 < values["accuracy"] < 1
    assert values["kl"] > 0 and values["log_ratio"] > 0.1


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_groups_of_equal_rewards_have_exactly_no_gradient(name):
    rollouts, _, _ = drawn(3, 0.2)
    for rollout in rollouts:
        for group in rollout.groups:
            group.rewards = None if group.rewards is None else np.full(3, 1 / 3)
    _, batch = batch_of(rollouts, SHAPE, STOP, "centred", mask_overlong=True)
    batch["reference_logps"] = batch["drawn_logps"]
    (_, _), gradient = tree_loss(name, constants())(PARAMS, {key: jnp.asarray(x) for key, x in batch.items()})
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradient))


def test_what_is_not_learned_from_changes_nothing():
    """Replies of a dropped group, and replies that were cut: their log-probs do not reach the loss."""
    _, batch, _ = drawn(4, 0.1)
    of_trees = tree_loss("grpo", constants(entropy=0.1))
    (value, _), gradient = of_trees(PARAMS, batch)
    out = np.asarray(batch["weight"]) == 0
    rows, tokens = np.nonzero(np.take_along_axis(out, np.asarray(batch["reply"]), axis=1))
    moved = batch["drawn_logps"].at[rows, tokens].add(1.0)
    assert (np.asarray(batch["reply"])[rows, tokens] > 0).any()
    (again, _), same = of_trees(PARAMS, {**batch, "drawn_logps": moved})
    assert value == again
    jax.tree.map(np.testing.assert_array_equal, gradient, same)
