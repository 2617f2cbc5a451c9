"""Rows of paths: what is compared and learned is that of token trees, and MaxText's flash kernels compute them."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe_jax.data.loader import FIELDS
from aloe_jax.data.packing import pack_sources, without_branches
from aloe_jax.data.trees import TokenTree
from aloe_jax.errors import AloeError
from aloe_jax.models.maxtext import internals
from aloe_jax.models.maxtext.decoder import MaxTextSpec
from aloe_jax.models.spec import Compute, named_parameters
from aloe_jax.models.weights import nested
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.parallel.topology import QUICK, compile_for, tpu_mesh
from aloe_jax.training.logprobs import Scores, reply_logps
from aloe_jax.training.reference import ReferenceCache
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages.stage import stage_of
from aloe_jax.training.totals import read
from tests.data.test_packing import draw_tree, path_of
from tests.parallel.test_topology import needs_libtpu
from tests.training.test_logprobs import GRAPH, PARAMS, random_trees
from tests.training.test_maxtext import drawn

LLAMA = {
    "base_emb_dim": 32, "base_mlp_dim": 48, "base_num_decoder_layers": 2, "head_dim": 16, "base_num_query_heads": 4,
    "base_num_kv_heads": 2, "vocab_size": 97, "max_position_embeddings": 256,
}  # fmt: skip


def batch_of(rows):
    return {name: jnp.asarray(getattr(rows, name)) for name in FIELDS}


# ---------------------------------------------------------------- rows


def pairs_of(rows):
    """(preferred's id, rejected's id, turn) of every pair, and by id the tokens that a reply sees and those it is."""
    pairs, replies = [], {}
    for row, ids in enumerate(rows.reply_ids):
        for (one, other), turn in zip(rows.pairs[row], rows.pair_turn[row], strict=True):
            if turn:
                pairs.append((ids[one - 1], ids[other - 1], int(turn)))
        for number, name in enumerate(ids, 1):
            last = at = int(np.flatnonzero(rows.reply[row] == number)[-1])
            seen = np.flatnonzero((np.arange(last + 1) <= last) & (rows.subtree_end[row, : last + 1] > last))
            path = [at]
            while rows.parent[row, at] != at:
                at = int(rows.parent[row, at])
                path.append(at)
            assert path[::-1] == seen.tolist()
            assert rows.positions[row, seen].tolist() == list(range(len(seen)))
            replies[name] = rows.tokens[row, seen].tolist(), int(rows.reply_length[row, number])
    return sorted(pairs), replies


@settings(max_examples=40)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=6, unique=True), st.integers(60, 120))
def test_paths_hold_the_same_pairs_and_replies_as_trees(seeds, length):
    trees = [draw_tree(np.random.default_rng(seed), f"t{seed}") for seed in seeds]
    (whole, (report,)), (rows, (paths,)) = (pack_sources({"": trees}, length, form) for form in ("trees", "paths"))
    assert pairs_of(rows) == pairs_of(whole)
    assert (paths.trees, paths.pairs, paths.replies) == (report.trees, report.pairs, report.replies)
    assert without_branches(rows) and not without_branches(whole)
    for row, end in zip(rows.parent, rows.subtree_end, strict=True):  # a segment is one piece with a number of its own
        start = np.flatnonzero(row == np.arange(length))
        assert end[start].tolist() == [*start[1:].tolist(), length]
        assert (end == np.repeat(end[start], np.diff([*start, length]))).all()


def test_a_reply_without_a_pair_has_a_row_and_a_path_that_is_too_long_is_counted():
    tree = draw_tree(np.random.default_rng(1), "t", max_turns=4)
    ends = [i for i, node in enumerate(tree.nodes) if node.scored]
    sizes = [sum(len(tree.nodes[node].tokens) for node in path_of(tree, end)) for end in ends]
    alone = tree.keep_replies(ends)
    rows, (report,) = pack_sources({"": [alone]}, max(sizes), "paths")
    assert report.replies == len(ends) and report.pairs == 0 and report.tokens == sum(sizes)
    rows, (report,) = pack_sources({"": [alone]}, max(sizes) - 1, "paths")
    assert report.turns_lost == sizes.count(max(sizes)) and report.shortened == 1
    assert report.replies == len(ends) - report.turns_lost and rows.tokens.shape[1] == max(sizes) - 1
    with pytest.raises(AloeError, match="none of 1 trees fits"):
        pack_sources({"": [alone]}, min(sizes) - 1, "paths")


# ---------------------------------------------------------------- what is learned


def native():
    return GRAPH, PARAMS


def maxtext():
    graph, params = nnx.split(drawn(MaxTextSpec("llama3.1-8b", LLAMA, 128)), nnx.Param)
    return graph, nnx.to_pure_dict(params)


def alike(*several):
    """Rows filled up with zeros to one shape, so that what is compiled for one of them is for all."""
    fields = {name: [getattr(rows, name) for rows in several] for name in FIELDS}
    sizes = {name: np.max([value.shape for value in values], axis=0) for name, values in fields.items()}
    made = []
    for rows in several:
        filled = {}
        for name, size in sizes.items():
            value = getattr(rows, name)
            filled[name] = np.pad(value, [(0, k - have) for have, k in zip(value.shape, size, strict=True)])
        none: list[list[str]] = [[]] * (sizes["length"][0] - len(rows))
        made.append(replace(rows, **filled, reply_ids=rows.reply_ids + none))
    return made


@pytest.mark.parametrize("model", [native, maxtext])
def test_loss_gradient_and_statistics_are_those_of_trees(model, tmp_path):
    graph, params = model()
    run = TrainSettings(stage="dpo", output="run", model={"path": "model"}, data={"path": "data"})
    objective = stage_of(run).objective(turns=3)
    other = jax.tree.map(lambda x: x * 1.1, params)  # the reference

    @jax.jit
    def learned(params, batch):
        def loss(params):
            logps = reply_logps(nnx.merge(graph, params), batch)
            totals = objective(Scores.of_replies(logps), batch)
            return totals["loss"].total / totals["loss"].weight, (totals, logps)

        return jax.grad(loss, has_aux=True)(params)

    trees = random_trees(5)
    found, references = [], []
    for rows in alike(*(pack_sources({"": trees}, 96, form)[0] for form in ("trees", "paths"))):
        none = {"reference": jnp.zeros(rows.pairs.shape)}
        cache = ReferenceCache(tmp_path / str(len(found)), "one")
        reference = cache.for_rows(rows, len(rows), lambda batch, none=none: learned(other, batch | none)[1][1])
        references.append(cache.logps)
        found.append(learned(params, batch_of(rows) | {"reference": jnp.asarray(reference)}))
    assert references[0].keys() == references[1].keys()
    for name, value in references[0].items():
        np.testing.assert_allclose(references[1][name], value, atol=1e-5, rtol=1e-6)
    (gradient, (totals, _)), (again, (paths, _)) = found
    told, said = read(totals), read(paths)
    assert told.keys() == said.keys() and any(name.startswith("margin/turn") for name in told)
    for name, value in told.items():
        np.testing.assert_allclose(said[name], value, atol=1e-5, err_msg=name)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, atol=1e-5), gradient, again)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 1e-3


# ---------------------------------------------------------------- MaxText's flash kernels

WIDE = LLAMA | {"head_dim": 128, "base_num_query_heads": 2, "base_num_kv_heads": 1, "base_num_decoder_layers": 2}


def paths_batch(length, vocab=97):
    """Rows of paths of random tokens, with padding at their ends."""
    random = np.random.default_rng(0)
    tree = draw_tree(random, "t", max_turns=4)
    nodes = tuple(replace(node, tokens=random.integers(1, vocab, 4 * len(node.tokens)).tolist()) for node in tree.nodes)
    rows, _ = pack_sources({"": [TokenTree(tree.id, nodes, tree.pairs)]}, length, "paths")
    return batch_of(rows)


@nnx.jit
def hidden(model, tokens, positions, ends):
    return model.hidden(tokens, positions, ends)


def interpreted(patch):
    """MaxText's TPU kernel on this CPU, in Pallas' interpreter."""
    op = internals.parts().attention_op
    kernel, calls = op.splash_attention_kernel, []

    def flash(self, query, key, value, decoder_segment_ids, sinks=None, model_mode="train", **kwargs):
        assert self.attention_kernel == "flash"
        calls.append(self.attention_type.name)
        out, _ = self.tpu_flash_attention(
            query, key, value, decoder_segment_ids, self.attn_logits_soft_cap, sinks, model_mode=model_mode
        )
        return out, None, None

    patch.setattr(op.AttentionOp, "apply_attention", flash)
    patch.setattr(kernel, "make_splash_mha", functools.partial(kernel.make_splash_mha, interpret=True))
    return calls


def test_the_tpu_kernel_reads_paths_as_segments(monkeypatch):
    """Of a layer with a window and one without, both with capped scores."""
    spec = MaxTextSpec("gemma2-2b", WIDE | {"sliding_window_size": 24, "attn_logits_soft_cap": 2.0}, 256)
    dense = drawn(spec)
    batch = paths_batch(256)
    given = batch["tokens"], batch["positions"], batch["subtree_end"]
    expected = hidden(dense, *given)
    calls = interpreted(monkeypatch)
    flash = spec.assemble(nested(named_parameters(dense)), Compute(attention="tpu"))
    found = hidden(flash, *given)
    assert set(calls) == {"GLOBAL", "LOCAL_SLIDING"}
    np.testing.assert_allclose(found, expected, atol=2e-4)
    one = hidden(flash, *given[:2], jnp.full_like(given[2], 256))  # all paths in one segment
    assert np.abs(np.asarray(one) - np.asarray(expected)).max() > 0.1


@needs_libtpu
def test_the_kernel_is_in_a_tpus_program():
    spec = MaxTextSpec("llama3.1-8b", WIDE | {"base_num_query_heads": 4, "base_num_kv_heads": 2}, 512)
    mesh = tpu_mesh("v5e:2x2", MeshSettings(data=1, fsdp=2, tensor=2))
    graph, params, _ = spec.abstract("bfloat16", mesh, Compute(attention="tpu", dtype="bfloat16"))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp")))
    row = jax.ShapeDtypeStruct((4, 512), jnp.int32, sharding=place)

    def loss(params, tokens, positions, ends):
        return (nnx.merge(graph, params).hidden(tokens, positions, ends).astype(jnp.float32) ** 2).mean()

    text = compile_for(mesh, jax.grad(loss), params, row, row, row, options=QUICK).as_text()
    assert "splash_mha_fwd" in text and "splash_mha_dkv" in text
    assert ",512,512]" not in text  # the scores of a row, whole


def test_what_a_kernel_cannot_compute_is_refused():
    llama, gemma = (
        MaxTextSpec("llama3.1-8b", LLAMA, 2048),
        MaxTextSpec("gemma2-2b", LLAMA, 2048),
    )
    for spec, attention, packing, length, platform, message in [
        (llama, "tpu", "trees", 1024, "tpu", "knows segments of a row but no trees; set data.packing to paths"),
        (llama, "tpu", "paths", 1024, "cpu", "a kernel for another platform than cpu"),
        (llama, "tpu", "paths", 1100, "tpu", "takes 512 tokens at once, and 1100 is no multiple"),
        (llama, "chunked", "paths", 1024, "tpu", "no chunked attention"),
        (gemma, "gpu", "paths", 1024, "gpu", "has sliding windows, which MaxText's GPU kernel leaves out"),
    ]:
        with pytest.raises(AloeError, match=message):
            spec.attention_method(attention, packing, length, platform)
    assert [llama.attention_method("auto", "paths", 1024, platform) for platform in ("tpu", "gpu", "cpu")] == [
        "tpu",
        "gpu",
        "dense",
    ]
    assert [llama.attention_method("auto", "trees", 1024, platform) for platform in ("tpu", "gpu", "cpu")] == [
        "dense"
    ] * 3
    assert (
        gemma.attention_method("auto", "paths", 1024, "gpu")
        == llama.attention_method("auto", "paths", 1100, "tpu")
        == "dense"
    )
