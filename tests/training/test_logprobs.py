"""Tree-packed log-probs and gradients against the same replies as separate sequences."""

from dataclasses import replace
from functools import partial

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
from aloe_jax.models.native.decoder import DecoderSpec
from aloe_jax.models.spec import Compute
from aloe_jax.parallel.collectives import collectives
from aloe_jax.parallel.mesh import make_mesh, sharding
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.training import logprobs
from aloe_jax.training.head import piece_size, token_logps, token_logps_and_entropies
from aloe_jax.training.logprobs import reply_logps
from aloe_jax.training.stages.dpo import dpo_loss, gather_pairs
from tests.data.test_packing import draw_tree, path_of
from tests.random_models import random_decoder

SPEC = DecoderSpec(
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


def sequence_logps(params, tokens, scored, graph=GRAPH) -> jax.Array:
    """[S] by the plain shift by one over whole logits."""
    model = nnx.merge(graph, params)
    logits = model.hidden(tokens) @ model.unembedding()
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


def test_only_scored_tokens_need_the_head():
    """The same with and without the list of scored tokens; without it every token goes through the head."""
    rows, _ = pack(random_trees(7), ROW)
    batch = {name: jnp.asarray(getattr(rows, name)) for name in FIELDS}
    every = {name: value for name, value in batch.items() if name != "scored"}
    few, all_ = (jax.jit(lambda batch: reply_logps(nnx.merge(GRAPH, PARAMS), batch))(each) for each in (batch, every))
    assert (few[:, 1:] < 0).sum() == (rows.reply_length > 0).sum()
    assert (few[:, 0] == 0).all() and batch["scored"].shape[1] < ROW
    np.testing.assert_allclose(few, all_, rtol=1e-6)


def test_in_float64_trees_equal_separate_sequences_to_rounding():
    with jax.enable_x64(True):
        graph, state = nnx.split(random_decoder(SPEC, 0.2, compute=Compute(dtype="float64")), nnx.Param)
        params = jax.tree.map(lambda x: x.astype(jnp.float64), nnx.to_pure_dict(state))
        trees = random_trees(11)
        rows, _ = pack(trees, ROW)
        batch = {name: jnp.asarray(getattr(rows, name)) for name in FIELDS}
        found = jax.jit(lambda params: reply_logps(nnx.merge(graph, params), batch))(params)
        tokens, scored, names = as_sequences(trees)
        expected = jax.jit(lambda params: sequence_logps(params, tokens, scored, graph))(params)
        assert found.dtype == expected.dtype == jnp.float64
        by_name = dict(zip(names, np.asarray(expected), strict=True))
        for row, ids in enumerate(rows.reply_ids):
            np.testing.assert_allclose(found[row, 1 : len(ids) + 1], [by_name[name] for name in ids], rtol=1e-12)


def exchanged_states() -> tuple[int, int]:
    """Arrays that the compiled gradient exchanges between rows' devices but for sums: (of states, of anything else)."""
    mesh = make_mesh(MeshSettings(data=2, fsdp=2, tensor=2))
    rows, _ = pack([tree for seed in range(6) for tree in random_trees(seed)], ROW)
    count = len(rows) // 4 * 4
    scored = np.pad(rows.scored, ((0, 0), (0, 70 - rows.scored.shape[1])))  # a length that no weight has
    with jax.set_mesh(mesh):
        batch = {name: getattr(rows, name)[:count] for name in FIELDS} | {"scored": scored[:count]}
        places = {name: sharding(mesh, ("batch", *(None,) * (x.ndim - 1)), x.shape) for name, x in batch.items()}
        batch = jax.device_put(batch, places)
        params = jax.device_put(PARAMS, SPEC.shardings(mesh))

        def total(params, batch):
            return reply_logps(nnx.merge(GRAPH, params), batch).sum()

        compiled = jax.jit(jax.grad(total)).lower(params, batch).compile()
    kinds = ("all-gather", "all-to-all", "collective-permute")
    moved = [each for each in collectives(compiled, mesh) if each.kind in kinds and {"data", "fsdp"} & set(each.axes)]
    states = [each for each in moved if {ROW, 70} & set(each.shape) and SPEC.width in each.shape]
    return len(states), len(moved) - len(states)


def test_on_a_mesh_no_state_leaves_its_row():
    states, others = exchanged_states()
    assert not states
    assert others  # weights, along fsdp


def test_states_that_leave_their_row_are_noticed(monkeypatch):
    """The control: states picked out of all rows at once."""

    def out_of_all(function, values, index):
        if function is not logprobs.pick or values.ndim < 3:
            return function(values, index)
        offset = values.shape[1] * jnp.arange(len(values))[:, None]
        return values.reshape(-1, values.shape[2])[index + offset]

    monkeypatch.setattr(logprobs, "by_rows", out_of_all)
    assert exchanged_states()[0]


# ---------------------------------------------------------------- the head by itself


def head_inputs(rows=2, scored=24, width=8, vocab=53, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    hidden = jax.random.normal(keys[0], (rows, scored, width), dtype)
    unembedding = jax.random.normal(keys[1], (width, vocab), dtype)
    return hidden, unembedding, jax.random.randint(keys[2], (rows, scored), 0, vocab)


def weighted(logps_of, hidden, unembedding, labels):
    """((sum of weighted logps, logps), gradients to hidden and unembedding)."""

    def total(hidden, unembedding):
        logps = logps_of(hidden, unembedding, labels)
        return (logps * jnp.cos(jnp.arange(logps.size).reshape(logps.shape))).sum(), logps

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(hidden, unembedding)


def plain(hidden, unembedding, labels):
    """The whole logits, and JAX's own derivative."""
    logits = jnp.matmul(hidden, unembedding, preferred_element_type=jnp.float32)
    return jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]


def close(found, expected, tolerance=1e-5):
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize("piece", [1, 7, 16, 52, 53, 100, None])
def test_pieces_of_the_vocabulary_change_nothing(piece):
    inputs = head_inputs()
    close(weighted(partial(token_logps, piece=piece), *inputs), weighted(plain, *inputs))


def test_a_vocabulary_of_several_pieces_by_default():
    assert piece_size(32_000) == 1024 and piece_size(128_256) == 4096
    inputs = head_inputs(vocab=600)
    assert piece_size(600) == 256
    close(weighted(token_logps, *inputs), weighted(plain, *inputs))


def test_logits_far_apart_stay_finite():
    hidden, unembedding, labels = head_inputs()
    inputs = 1000 * hidden, unembedding, labels
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weighted(partial(token_logps, piece=7), *inputs)))
    close(weighted(partial(token_logps, piece=7), *inputs), weighted(plain, *inputs))


def test_bfloat16_states_have_float32_log_sum_exps():
    hidden, unembedding, labels = head_inputs(dtype=jnp.bfloat16)
    (_, logps), gradients = weighted(partial(token_logps, piece=16), hidden, unembedding, labels)
    wide = hidden.astype(jnp.float32), unembedding.astype(jnp.float32), labels
    (_, expected), wide_gradients = weighted(plain, *wide)
    assert logps.dtype == jnp.float32
    np.testing.assert_allclose(logps, expected, rtol=1e-5, atol=1e-5)  # the inputs are rounded, the sums are not
    for got, want in zip(gradients, wide_gradients, strict=True):
        assert got.dtype == jnp.bfloat16
        assert jnp.abs(got.astype(jnp.float32) - want).max() < 0.02 * jnp.abs(want).max()


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 4, 1), (1, 2, 4)])
@pytest.mark.parametrize("vocab", [64, 53])  # 53 is replicated
def test_the_head_on_meshes(shape, vocab):
    hidden, unembedding, labels = head_inputs(rows=8, vocab=vocab)
    expected = jax.device_get(weighted(plain, hidden, unembedding, labels))
    mesh = make_mesh(MeshSettings(data=shape[0], fsdp=shape[1], tensor=shape[2]))
    with jax.set_mesh(mesh):
        hidden = jax.device_put(hidden, sharding(mesh, ("batch", None, None), hidden.shape))
        labels = jax.device_put(labels, sharding(mesh, ("batch", None), labels.shape))
        unembedding = jax.device_put(unembedding, sharding(mesh, ("width", "vocab"), unembedding.shape))
        close(jax.device_get(weighted(partial(token_logps, piece=5), hidden, unembedding, labels)), expected)


@pytest.mark.parametrize("vocab", [8192, 32_000])
def test_memory_is_an_eighth_of_all_logits(vocab):
    tokens = 8192
    hidden, unembedding, labels = (jax.ShapeDtypeStruct(*each) for each in (
        ((1, tokens, 256), jnp.float32), ((256, vocab), jnp.float32), ((1, tokens), jnp.int32)
    ))  # fmt: skip

    def temporary(logps_of):
        total = jax.value_and_grad(lambda *inputs: logps_of(*inputs, labels_of).sum(), argnums=(0, 1))
        labels_of = jnp.zeros(labels.shape, labels.dtype)
        return jax.jit(total).lower(hidden, unembedding).compile().memory_analysis().temp_size_in_bytes

    logits = 4 * tokens * vocab
    assert temporary(token_logps) <= logits / 8
    assert temporary(plain) > logits  # the control


def plain_with_entropies(hidden, unembedding, labels, cap=None):
    """The whole distribution, and JAX's own derivative."""
    logits = jnp.matmul(hidden, unembedding, preferred_element_type=jnp.float32)
    logps = jax.nn.log_softmax(logits if cap is None else cap * jnp.tanh(logits / cap))
    return jnp.take_along_axis(logps, labels[..., None], axis=-1)[..., 0], -(jnp.exp(logps) * logps).sum(-1)


def combined(function, hidden, unembedding, labels):
    """Log-probs and entropies, each token with weights of its own, and the gradients of their sum."""

    def total(hidden, unembedding):
        logps, entropies = function(hidden, unembedding, labels)
        weights = jax.random.normal(jax.random.key(3), (2, *labels.shape))
        return (weights[0] * logps + weights[1] * entropies).sum(), (logps, entropies)

    return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(hidden, unembedding)


@pytest.mark.parametrize(("piece", "cap"), [(1, None), (16, None), (53, None), (None, None), (7, 2.0)])
def test_entropies_and_their_gradients_are_those_of_the_whole_distribution(piece, cap):
    inputs = head_inputs()
    close(
        combined(partial(token_logps_and_entropies, piece=piece, cap=cap), *inputs),
        combined(partial(plain_with_entropies, cap=cap), *inputs),
    )


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 2, 4)])
def test_entropies_on_meshes(shape):
    hidden, unembedding, labels = head_inputs(rows=8, vocab=64)
    expected = jax.device_get(combined(plain_with_entropies, hidden, unembedding, labels))
    mesh = make_mesh(MeshSettings(data=shape[0], fsdp=shape[1], tensor=shape[2]))
    with jax.set_mesh(mesh):
        hidden = jax.device_put(hidden, sharding(mesh, ("batch", None, None), hidden.shape))
        labels = jax.device_put(labels, sharding(mesh, ("batch", None), labels.shape))
        unembedding = jax.device_put(unembedding, sharding(mesh, ("width", "vocab"), unembedding.shape))
        found = combined(partial(token_logps_and_entropies, piece=5), hidden, unembedding, labels)
        close(jax.device_get(found), expected)
