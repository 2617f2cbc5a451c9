"""Losses, rewards, log-probs and gradients of TRL's trainers, for the same weights and pairs, from packed token trees.

TRL computes every pair as a prompt with two replies, in float32 on PyTorch; see golden/make_trl.py. Here a conversation
is one tree whose turns share their path. Both round in float32, each in its own order. Tolerances, and what was
measured with them:

- log-probs of replies 1e-5 of themselves (7e-7);
- losses 1e-5 (1.3e-6) and norms of gradients 1e-4 (1.7e-6);
- rewards 1e-5, plus β times 1e-5 nats: a reward is β times a difference of log-probs of up to 51 nats, each rounded
  at 4e-6, so one near 0 has fewer digits (3.5e-6 absolutely, where β is 0.3; 1.5e-5 of the smallest reward, 0.007).
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from aloe_jax.data.loader import FIELDS
from aloe_jax.data.packing import pack
from aloe_jax.data.trees import Node, Pair, TokenTree
from aloe_jax.models.opening import load_pretrained
from aloe_jax.training.logprobs import Scores, reply_logps
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages.dpo import dpo_loss, gather_pairs
from aloe_jax.training.stages.stage import stage_of
from aloe_jax.training.totals import read
from tests.golden.seeded import tensor

MODEL = Path(__file__).parents[1] / "golden" / "llama"
GOLDEN = json.loads((MODEL.parent / "trl" / "golden.json").read_text())
LOSSES = GOLDEN["losses"]
ROW = 192
# By what name TRL has what our settings say, where that is not the loss's own.
OURS = {"conservative": {"loss": "sigmoid"}, "sft_weight": {"loss": "sigmoid", "sft_weight": 0.4}}


def as_tree(name: str, turns: list[dict]) -> TokenTree:
    """A conversation, every token once: at each turn the reply that ends there, then the one that goes on."""
    nodes: list[Node] = []
    pairs: list[Pair] = []
    last = -1
    for turn, spoken in enumerate(turns):
        nodes.append(Node(last, tuple(spoken["user"]), turn=turn))
        user, place = len(nodes) - 1, {}
        for side in sorted(("preferred", "rejected"), key=lambda side: side == spoken["continued"]):
            place[side] = last = len(nodes)
            reply = tuple(spoken[side])
            nodes.append(Node(user, reply, scored=len(reply), turn=turn, id=f"{name}/{turn}/{side}", source=turn))
        pairs.append(Pair(turn, place["preferred"], place["rejected"]))
    return TokenTree(name, tuple(nodes), tuple(pairs))


def params(path: Path) -> tuple[nnx.GraphDef, dict]:
    graph, state = nnx.split(load_pretrained(path), nnx.Param)
    return graph, nnx.to_pure_dict(state)


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """Batch, log-probs of policy and reference [B, R], and the pullback from log-probs to the policy's weights."""
    trees = [as_tree(f"c{number}", turns) for number, turns in enumerate(GOLDEN["conversations"])]
    rows, report = pack(trees, ROW)
    assert report.trees == 3 and not report.shortened and len(rows) < 3  # trees share rows
    batch = {name: jnp.asarray(getattr(rows, name)) for name in FIELDS}

    moved = tmp_path_factory.mktemp("reference")
    share = np.float32(GOLDEN["share"])
    weights = {
        key: (1 - share) * weight + share * tensor(key, list(weight.shape))
        for key, weight in load_file(MODEL / "model.safetensors").items()
    }
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    (moved / "config.json").write_bytes((MODEL / "config.json").read_bytes())

    graph, policy = params(MODEL)
    logps, pull = jax.vjp(jax.jit(lambda p: reply_logps(nnx.merge(graph, p), batch)), policy)
    reference = reply_logps(load_pretrained(moved), batch)
    batch["reference"] = gather_pairs(reference, batch["pairs"])
    # TRL's order: pair by pair of every conversation. Rows are packed longest tree first.
    names = [f"{tree.id}/{turn}/preferred" for tree in trees for turn in range(tree.turns)]
    found = {
        rows.reply_ids[row][rows.pairs[row, pair, 0] - 1]: (row, pair)
        for row, pair in zip(*np.nonzero(rows.pair_turn), strict=True)
    }
    order = tuple(np.array([found[name] for name in names]).T)
    return batch, logps, jax.jit(pull), order


def test_log_probs(computed):
    batch, logps, _, order = computed
    for got, golden in ((gather_pairs(logps, batch["pairs"]), "policy"), (batch["reference"], "reference")):
        np.testing.assert_allclose(got[order], GOLDEN["logps"][golden], rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_rewards_and_gradients(computed, name):
    batch, logps, pull, order = computed
    golden = LOSSES[name]
    options = {key: golden["settings"][key] for key in ("beta", "label_smoothing") if key in golden["settings"]}
    if "simpo_gamma" in golden["settings"]:
        options["gamma"] = golden["settings"]["simpo_gamma"]
    ours = {"loss": name} | options | OURS.get(name, {})
    objective = stage_of(
        TrainSettings.model_validate(
            {"stage": "dpo", "output": "o", "model": {"path": "m"}, "data": {"path": "d"}, "dpo": ours}
        )
    ).objective()

    def loss(logps):
        total, weight = objective(Scores.of_replies(logps), batch)["loss"]
        return total / weight

    value, cotangent = jax.value_and_grad(loss)(logps)
    np.testing.assert_allclose(value, golden["loss"], rtol=1e-5)
    squares = [jnp.sum(gradient**2) for gradient in jax.tree.leaves(pull(cotangent))]
    np.testing.assert_allclose(jnp.sqrt(sum(squares)), golden["gradient_norm"], rtol=1e-4)

    lengths = gather_pairs(batch["reply_length"], batch["pairs"])[order]
    one = jax.vmap(lambda *pair: dpo_loss(*pair[:2], loss=ours["loss"], lengths=pair[2], **options)[1])(
        gather_pairs(logps, batch["pairs"])[order], batch["reference"][order], lengths
    )
    rewards = np.array(golden["rewards"])
    if name in ("ipo", "length_normalised"):
        rewards = rewards / lengths  # TRL tells those of whole replies, though its loss compares them per token
    for side, which in enumerate(("preferred", "rejected")):
        np.testing.assert_allclose(one[f"reward_{which}"], rewards[:, side], rtol=1e-5, atol=1e-5 * options["beta"])
    np.testing.assert_array_equal(one["accuracy"], rewards[:, 0] > rewards[:, 1])
    np.testing.assert_allclose(
        read(objective(Scores.of_replies(logps), batch))["margin"], -np.diff(rewards).mean(), rtol=1e-4
    )


def test_the_numbers_tell_losses_and_pairs_apart(computed):
    """The control: no two losses agree, both kinds of pair are there, and a wrong parent would be seen."""
    values = [each["loss"] for each in LOSSES.values()]
    assert min(np.diff(np.sort(values))) > 1e-3
    rewards = np.array(LOSSES["hinge"]["rewards"])
    assert {bool(x) for x in rewards[:, 0] > rewards[:, 1]} == {True, False}
    assert {bool(x) for x in rewards[:, 0] - rewards[:, 1] > 1} == {True, False}  # on both sides of the hinge
    batch, logps, _, _ = computed
    wrong = batch | {"parent": jnp.maximum(jnp.arange(ROW)[None] - 1, 0) + jnp.zeros_like(batch["parent"])}
    assert jnp.abs(reply_logps(load_pretrained(MODEL), wrong) - logps).max() > 0.1


def test_orpo_leaves_out_the_prompt(computed):
    """TRL's own total adds the likelihood of every token of prompt and reply; its odds term is ours."""
    batch, logps, _, _ = computed
    golden = LOSSES["orpo"]
    preferred = (
        gather_pairs(logps, batch["pairs"])[..., 0] / gather_pairs(batch["reply_length"], batch["pairs"])[..., 0]
    )
    likelihood = -jnp.where(batch["pair_turn"] > 0, preferred, 0).sum() / (batch["pair_turn"] > 0).sum()
    np.testing.assert_allclose(golden["loss"] - likelihood, golden["odds"], rtol=1e-4)
    assert abs(golden["whole"] - golden["loss"]) > 0.1
