"""Tree-packed log-probs and gradients against the same replies as separate sequences."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe_jax.data.loader import FIELDS
from aloe_jax.data.packing import pack
from aloe_jax.data.trees import TokenTree
from aloe_jax.models import ModelSpec
from aloe_jax.training.logprobs import reply_logps, token_logps
from aloe_jax.training.objectives import dpo_loss, gather_pairs
from tests.data.test_packing import draw_tree, path_of
from tests.random_models import random_decoder

SPEC = ModelSpec(
    vocab=97, layers=2, width=32, query_heads=4, kv_heads=2, head_size=8, feed_forward=64, max_length=64,
    tie_embeddings=True,
)  # fmt: skip
GRAPH, _STATE = nnx.split(random_decoder(SPEC, 0.2), nnx.Param)
PARAMS = nnx.to_pure_dict(_STATE)
PATH, ROW, TREES = 64, 96, 3


def random_trees(seed: int) -> list[TokenTree]:
    random = np.random.default_rng(seed)
    made = []
    for number in range(TREES):
        tree = draw_tree(random, f"t{number}", max_turns=3)
        nodes = tuple(
            replace(node, tokens=tuple(random.integers(1, 97, len(node.tokens)).tolist())) for node in tree.nodes
        )
        made.append(TokenTree(tree.id, nodes, tree.pairs))
    return made


def packed_logps(params, rows) -> jax.Array:
    """[N, P, 2] through tree-packed rows."""
    batch = {name: jnp.asarray(getattr(rows, name)) for name in FIELDS}
    return gather_pairs(reply_logps(nnx.merge(GRAPH, params), batch), batch["pairs"])


def as_sequences(trees: list[TokenTree]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Every reply as its own sequence: tokens [S, PATH], the 0/1 mask of scored tokens, and the reply's id."""
    tokens, scored, names = [], [], []
    for tree in trees:
        for pair in tree.pairs:
            for node in (pair.preferred, pair.rejected):
                path = [t for n in path_of(tree, node) for t in tree.nodes[n].tokens]
                start = len(path) - len(tree.nodes[node].tokens)
                tokens.append(path + [0] * (PATH - len(path)))
                mask = np.zeros(PATH, np.int32)
                mask[start : start + tree.nodes[node].scored] = 1
                scored.append(mask)
                names.append(tree.nodes[node].id)
    return np.array(tokens, np.int32), np.stack(scored), names


def sequence_logps(params, tokens, scored) -> jax.Array:
    """[S] by the plain shift by one over whole logits."""
    logits = nnx.merge(GRAPH, params)(tokens)
    logps = jax.nn.log_softmax(logits[:, :-1])
    picked = jnp.take_along_axis(logps, tokens[:, 1:, None], axis=-1)[..., 0]
    return (picked * scored[:, 1:]).sum(axis=1)


@pytest.fixture(scope="module")
def compiled():
    def packed_loss(params, batch, reference, weights):
        logps = gather_pairs(reply_logps(nnx.merge(GRAPH, params), batch), batch["pairs"])
        return dpo_loss(logps, reference, 0.3, weights=weights)[0], logps

    def plain_loss(params, tokens, scored, reference, weights):
        logps = sequence_logps(params, tokens, scored).reshape(-1, 2)
        return dpo_loss(logps, reference, 0.3, weights=weights)[0]

    return (
        jax.jit(jax.value_and_grad(packed_loss, has_aux=True)),
        jax.jit(jax.value_and_grad(plain_loss)),
        jax.jit(sequence_logps),
    )


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_trees_equal_separate_sequences(compiled, seed):
    packed_loss, plain_loss, plain_logps = compiled
    trees = random_trees(seed)
    rows, report = pack(trees, ROW)
    assert not report.shortened and not report.skipped
    tokens, scored, names = as_sequences(trees)
    pad = 2 * 3 * TREES - len(tokens)  # one shape for all examples
    tokens, scored = (np.pad(x, ((0, pad), (0, 0))) for x in (tokens, scored))
    plain = dict(zip(names, np.asarray(plain_logps(PARAMS, tokens, scored)), strict=False))

    # The same for the packed rows: as many rows and pairs as there can be.
    batch = {name: getattr(rows, name) for name in FIELDS}
    batch = {name: np.pad(v, [(0, TREES - len(v))] + [(0, 0)] * (v.ndim - 1)) for name, v in batch.items()}
    wide = {"pairs": 9, "pair_turn": 9, "reply_length": 19}
    for name, size in wide.items():
        v = batch[name]
        batch[name] = np.pad(v, [(0, 0), (0, size - v.shape[1])] + [(0, 0)] * (v.ndim - 2))
    batch["subtree_end"][len(rows) :] = np.arange(ROW) + 1
    weights = (batch["pair_turn"] > 0).astype(np.float32)

    reference = np.zeros((TREES, 9, 2), np.float32)
    in_order = {}
    for row in range(len(rows)):
        for pair in np.flatnonzero(weights[row]):
            ids = [rows.reply_ids[row][number - 1] for number in batch["pairs"][row, pair]]
            reference[row, pair] = [plain[name] * 0.9 for name in ids]
            in_order[ids[0]] = reference[row, pair]
    plain_reference = np.zeros((3 * TREES, 2), np.float32)
    plain_weights = np.zeros(3 * TREES, np.float32)
    for place, name in enumerate(names[::2]):
        plain_reference[place], plain_weights[place] = in_order[name], 1.0

    (loss, logps), gradients = packed_loss(PARAMS, batch, reference, weights)
    expected, expected_gradients = plain_loss(PARAMS, tokens, scored, plain_reference, plain_weights)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for path, got in jax.tree_util.tree_leaves_with_path(gradients):
        want = dict(jax.tree_util.tree_leaves_with_path(expected_gradients))[path]
        error = jnp.linalg.norm(got - want) / jnp.linalg.norm(want)
        assert error < 1e-5, (path, error)
    for row in range(len(rows)):
        for pair in range(int((rows.pair_turn[row] > 0).sum())):
            for side in (0, 1):
                name = rows.reply_ids[row][rows.pairs[row, pair, side] - 1]
                np.testing.assert_allclose(logps[row, pair, side], plain[name], rtol=1e-5)


def test_a_broken_parent_is_noticed():
    """The control: predicting from the token before in the row, not on the path, gives other numbers."""
    rows, _ = pack(random_trees(4), ROW)
    wrong = np.maximum(np.tile(np.arange(ROW, dtype=np.int32), (len(rows), 1)) - 1, 0)
    right = packed_logps(PARAMS, rows)
    assert jnp.abs(right - packed_logps(PARAMS, replace(rows, parent=wrong))).max() > 0.1


@pytest.mark.parametrize(("length", "chunk"), [(10, 16), (16, 16), (40, 16), (48, 16)])
def test_chunks_change_nothing(length, chunk):
    keys = jax.random.split(jax.random.key(0), 3)
    hidden = jax.random.normal(keys[0], (2, length, 8))
    head = jax.random.normal(keys[1], (8, 13))
    labels = jax.random.randint(keys[2], (2, length), 0, 13)

    def total(hidden, head, chunk):
        logps = token_logps(hidden, head, labels, chunk)
        return (logps * jnp.arange(length)[None]).sum(), logps

    (_, logps), gradients = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(hidden, head, chunk)
    (_, whole), expected = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(hidden, head, length)
    direct = jnp.take_along_axis(jax.nn.log_softmax(hidden @ head), labels[..., None], -1)[..., 0]
    np.testing.assert_allclose(logps, direct, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logps, whole, rtol=1e-6)
    for got, want in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
