"""What is said before a run: memory against what is really held and compiled, data and steps against the loader."""

import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aloe_jax.data.loader import Loader
from aloe_jax.data.mixture import Prepared
from aloe_jax.data.packing import Part, pack_sources
from aloe_jax.data.trees import Node, Pair, TokenTree
from aloe_jax.errors import AloeError
from aloe_jax.models.native.decoder import Decoder, DecoderSpec
from aloe_jax.models.settings import LoRASettings
from aloe_jax.models.spec import Compute
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.training import memory, summary
from aloe_jax.training.data_source import data_summary
from aloe_jax.training.master import MasterCopies
from aloe_jax.training.optimizer import make_optimizer
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages.stage import stage_of
from aloe_jax.training.start import resolve
from aloe_jax.training.step import new_state, train_step
from aloe_jax.training.work import Work
from tests.random_models import random_decoder

TINY = DecoderSpec(
    vocab=64, layers=2, width=16, query_heads=4, kv_heads=2, head_size=4, feed_forward=32, max_length=256
)  # fmt: skip
MEDIUM = DecoderSpec(
    vocab=8192, layers=4, width=256, query_heads=4, kv_heads=2, head_size=64, feed_forward=1024, max_length=2048
)  # fmt: skip


def settings(**changes):
    values = {
        "stage": "dpo",
        "output": "run",
        "model": {"path": "start"},
        "data": {"path": "trees", "row_length": 64, "rows": 8},
    }
    for key, change in changes.items():
        values[key] = {**values[key], **change} if key in ("model", "data") else change
    return TrainSettings.model_validate(values)


def tree(name, sizes):
    """A turn for every (prompt, reply, reply) of tokens; the second reply is continued."""
    nodes, pairs = [], []
    for turn, (prompt, rejected, preferred) in enumerate(sizes):
        nodes.append(Node(len(nodes) - 1, (1,) * prompt, turn=turn))
        place = len(nodes) - 1
        for size in (rejected, preferred):
            nodes.append(Node(place, (2,) * size, scored=size, turn=turn, id=f"{name}/{turn}/{len(nodes)}"))
        pairs.append(Pair(turn, len(nodes) - 1, len(nodes) - 2))
    return TokenTree(name, tuple(nodes), tuple(pairs))


def prepared(**weights):
    """Two sources of trees, the first of longer ones, in rows of 64 tokens."""
    rng = np.random.default_rng(0)
    sources = {
        name: [tree(f"{name}{i}", rng.integers(3, 5 + 3 * longer, (2, 3)).tolist()) for i in range(20)]
        for longer, name in enumerate(weights)
    }
    rows, reports = pack_sources(sources, 64)
    ends = np.cumsum([0] + [report.rows for report in reports]).tolist()
    parts = [Part(name, *ends[i : i + 2], weight) for i, (name, weight) in enumerate(weights.items())]
    whole = pack_sources({"": [each for trees in sources.values() for each in trees]}, 64)[1][0]
    return Prepared(rows, whole, tuple(parts), tuple(reports))


def on_first_device(tree):
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("dtype", "optimizer", "mesh"),
    [
        ("float32", {}, {"data": 1, "fsdp": 8}),
        ("bfloat16", {"moment_dtype": "bfloat16"}, {"data": 2, "fsdp": 2, "tensor": 2}),
        ("bfloat16", {"name": "lion"}, {"data": 8, "fsdp": 1}),
        ("float32", {"name": "adafactor"}, {"data": 1, "fsdp": 2, "tensor": 4}),
    ],
)
def test_state_is_what_the_run_holds(dtype, optimizer, mesh):
    spec = replace(TINY, width=128, feed_forward=256, head_size=32)  # Adafactor factors from 128
    given = settings(model={"dtype": dtype}, optimizer=optimizer, mesh=mesh)
    where = make_mesh(given.mesh)
    said = memory.estimate(given, spec, where, prepared(a=1.0).rows, 10)
    with jax.set_mesh(where):
        shapes = memory.abstract(spec.weights(), where, dtype)
        params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding), shapes)
        state = new_state(params, MasterCopies(make_optimizer(given.optimizer, 10)), where)
    assert sum(said.state.values()) == on_first_device(state)
    assert said.state[f"parameters in {dtype}"] == on_first_device(state["params"])
    assert said.state.get("float32 copies of them", 0) == on_first_device(state["optimizer"].master)
    assert said.checkpoint == sum(leaf.nbytes for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("base", ["as_loaded", "int8"])
def test_frozen_weights_are_counted_as_they_are_held(base):
    lora = LoRASettings(rank=2, targets=("query", "down"), base=base)
    said = memory.estimate(
        settings(model={"lora": lora.model_dump()}),
        TINY,
        make_mesh(MeshSettings(fsdp=1, data=8)),
        prepared(a=1.0).rows,
        10,
    )
    model = random_decoder(TINY).adapted(lora, 0)
    frozen = jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    assert said.state[f"frozen weights, {base.replace('_', ' ')}"] == sum(leaf.nbytes for leaf in frozen)
    assert said.working["gradients"] == said.state["adapters in float32"]


def compiled(remat, attention, length, rows, parts=1):
    """Bytes that the compiler sets aside for a real DPO step of MEDIUM, and what is estimated, remat by remat."""
    mesh = make_mesh(MeshSettings(data=1, fsdp=1, tensor=1), jax.devices()[:1])
    given = settings(
        model={"remat": remat, "attention": attention},
        data={"rows": rows, "row_length": length, "accumulate": parts},
    )
    compute = Compute(attention, remat, 1, "float32")
    graph, _ = nnx.split(nnx.eval_shape(lambda: Decoder(MEDIUM, rngs=nnx.Rngs(0), compute=compute)), nnx.Param)
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    params = memory.abstract(MEDIUM.weights(), mesh, "float32")
    optimizer = MasterCopies(make_optimizer(given.optimizer, 10))
    state = {
        "params": params,
        "optimizer": jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
            jax.eval_shape(optimizer.init, params),
        ),
    }

    def ints(*shape):
        return jax.ShapeDtypeStruct((rows, *shape), jnp.int32, sharding=everywhere)

    scored = 3 * length // 4
    batch = {name: ints(length) for name in ("tokens", "positions", "subtree_end", "parent", "reply")} | {
        "scored": ints(scored),
        "pairs": ints(10, 2),
        "pair_turn": ints(10),
        "reply_length": ints(21),
        "length": ints(),
        "reference": jax.ShapeDtypeStruct((rows, 10, 2), jnp.float32, sharding=everywhere),
    }
    with jax.set_mesh(mesh):
        step = train_step(graph, stage_of(given).objective(10), optimizer, state, mesh, (), parts)
        program = step.compiled.lower(state, (), batch).compile()
    fake = pack_sources({"": [tree("a", [(4, scored - scored // 2, scored // 2)])]}, length)[0]

    def said(remat):
        changed = given.model_copy(update={"model": given.model.model_copy(update={"remat": remat})})
        working = dict(memory.estimate(changed, MEDIUM, mesh, fake, 10).working)
        del working["batch"]  # an argument, for the compiler
        return sum(working.values())

    found = program.memory_analysis().temp_size_in_bytes
    return found, said


@pytest.mark.parametrize(
    ("remat", "attention", "length", "rows", "parts"),
    [
        ("none", "dense", 256, 16, 1),
        ("dots", "dense", 256, 16, 2),
        ("full", "dense", 256, 16, 1),
        ("none", "chunked", 512, 8, 1),
    ],
)
def test_the_estimate_is_near_what_the_compiler_sets_aside(remat, attention, length, rows, parts):
    found, said = compiled(remat, attention, length, rows, parts)
    print(f"{remat} {attention} x {parts}: {said(remat) / found:.2f} of the compiler's {found / 2**20:.0f} MiB")
    assert 0.5 < said(remat) / found < 2
    if remat == "none":
        assert said("full") / found < 0.5  # another policy is told apart


def test_tensor_and_fsdp_divide_what_they_divide():
    rows = prepared(a=1.0).rows
    one = memory.estimate(
        settings(model={"attention": "chunked"}), TINY, make_mesh(MeshSettings(data=8, fsdp=1)), rows, 10
    )
    sharded = memory.estimate(
        settings(model={"attention": "chunked"}, data={"rows": 4}),
        TINY,
        make_mesh(MeshSettings(data=1, fsdp=4, tensor=2)),
        rows,
        10,
    )
    assert one.total > sharded.total
    kept = "activations, remat none"
    # A row a device in both; only what is as wide as the model is whole on the devices that share a row.
    narrow = 6 * TINY.width / (6 * TINY.width + (2 * 16 + 2 * 8 + 4) + 2 * TINY.feed_forward)
    assert sharded.working[kept] / one.working[kept] == pytest.approx(narrow + (1 - narrow) / 2)
    assert "weights gathered or cast" in sharded.working and "weights gathered or cast" not in one.working


# ---------------------------------------------------------------- the rest


def made(given, train=None, steps=12, spec=TINY):
    data = train or prepared(a=1.0)
    mesh = make_mesh(given.mesh)
    source = data_summary(data, data, Work.of(data.rows, spec, given.model.lora), given.data.rows)
    return summary.summarise(resolve(given, spec, mesh, "cpu"), spec, mesh, steps, data.rows, source)


def test_steps_are_what_the_loader_will_give():
    data = prepared(long=0.5, short=2.0)
    given = settings(
        data={"path": "", "mixture": [{"path": "long", "weight": 0.5}, {"path": "short", "weight": 2.0}], "rows": 2}
    )
    loader = Loader(data.rows, 2, 0, parts=data.parts)
    epochs = loader.rows_per_epoch  # so many steps are two epochs
    work = Work.of(data.rows, TINY)
    seen = np.array([work.over(loader.indices(step)) for step in range(epochs)])
    said = made(given, data, epochs)
    means = [said.step_tokens, said.step_pairs, said.step_flops]
    np.testing.assert_allclose(means, seen.mean(axis=0), rtol=0.02)  # weights times rows are rounded to whole rows
    assert said.passes == pytest.approx(2, rel=0.1)
    assert list(said.sources) == ["long", "short"]


def test_the_text(tmp_path):
    given = settings(output=str(tmp_path / "not" / "there"))
    said = made(given)
    lines = str(said).splitlines()
    assert lines[0].startswith(f"model       {TINY.parameter_count():,} parameters, 2 layers, 16 wide, 64 tokens")
    assert all(line[11] == " " and line[12] != "" for line in lines) and all(line == line.rstrip() for line in lines)
    text = "\n".join(lines)
    assert "GiB a device, estimated" in text and "12 steps" in text and "parameters in float32" in text
    assert "8 rows x 64 = 512 positions" in text and "data 1 x fsdp 8 x tensor 1 of cpu" in text
    assert not (tmp_path / "not").exists() and "warning" not in text
    rounded = sum(said.memory.state.values()) + sum(said.memory.working.values())
    assert said.memory.total == rounded


def test_adapters_and_sources_have_their_lines():
    text = str(made(settings(model={"lora": {"rank": 2, "base": "nf4"}}), prepared(long=1.0, short=0.5)))
    assert "adapters of rank 2, base nf4" in text and "frozen weights, nf4" in text
    assert "1 x long: 20 trees" in text and "0.5 x short: 20 trees" in text


def test_what_does_not_fit_is_warned_of(monkeypatch):
    monkeypatch.setattr(summary, "limit", lambda mesh: 1000)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(total=1000, used=0, free=1000))
    text = str(made(settings(checkpoints={"keep": 4})))
    assert "a device, which has 1000 B: set model.remat=full" in text
    assert "warning     5 checkpoints and one being written need" in text and "the disk has 1000 B free" in text


def test_a_moment_that_is_not_there_is_refused():
    with pytest.raises(AloeError, match=r"optimizer\.moment_dtype"):
        made(settings(optimizer={"name": "adafactor", "moment_dtype": "bfloat16"}))
