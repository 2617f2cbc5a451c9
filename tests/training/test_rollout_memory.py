"""The memory of on-policy training before it begins, against what a run has on a device and what is compiled."""

import gc
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aloe_jax.models.spec import Compute
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.rollouts.batch import BatchShape
from aloe_jax.sampling import programs, siblings
from aloe_jax.sampling.cache import PAGE
from aloe_jax.sampling.draw import checked_settings
from aloe_jax.sampling.sampler import Sampler
from aloe_jax.sampling.shapes import cache_shapes, layer_shapes, on_mesh, page_shapes, rows_read
from aloe_jax.sampling.sibling_cache import SiblingCache
from aloe_jax.training import memory
from aloe_jax.training.rollout_memory import sessions
from aloe_jax.training.rollout_source import RolloutSource
from aloe_jax.training.run import train
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.start import resolve
from tests.training.test_plan import MEDIUM, TINY, on_first_device
from tests.training.test_rl import settings, world  # noqa: F401  fixtures

SECOND = "the layers' weights once more, for drawing"
DRAWN = "replies are drawn"


def configured(mesh, provider="scripted", rl=None, **model):
    values = {
        "stage": "rl", "output": "run", "mesh": mesh,
        "model": {"path": "start", **model},
        "data": {"row_length": 192, "rows": 8},
        "rl": {"personas": "p", "conversations": 6, "group": 3, "heldout": 2, "turns": 2, **(rl or {}),
               "draw": {"max_new_tokens": 16, "rows": 10, **(rl or {}).get("draw", {})}},
        "roles": {"provider": provider, "model": None if provider == "scripted" else "m"},
    }  # fmt: skip
    return TrainSettings.model_validate(values)


def estimated(given, spec):
    mesh = make_mesh(given.mesh)
    rl, data = given.rl, given.data
    rows = BatchShape(data.rows, data.row_length, rl.conversations, rl.turns, rl.group).example()
    return memory.estimate(resolve(given, spec, mesh, "cpu"), spec, mesh, rows, 10), mesh


@pytest.mark.parametrize(
    ("mesh", "provider", "model", "draw"),
    [
        ({"data": 1, "fsdp": 4, "tensor": 2}, "scripted", {}, {}),
        ({"data": 2, "fsdp": 2, "tensor": 2}, "gemini", {"compute_dtype": "bfloat16"}, {"cache": "int8"}),
        ({"data": 8, "fsdp": 1}, "scripted", {"dtype": "bfloat16", "lora": {"rank": 2}}, {"cache": "bfloat16"}),
        ({"data": 1, "fsdp": 2, "tensor": 4}, "gemini", {"lora": {"rank": 2, "base": "int8"}}, {}),
    ],
)
def test_the_second_layout_and_the_caches_are_counted_exactly(mesh, provider, model, draw):
    given = configured(mesh, provider, {"draw": draw}, **model)
    said, where = estimated(given, TINY)
    options = given.model
    with jax.set_mesh(where):
        shapes = memory.abstract(TINY.weights(), where, options.dtype)
        params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding), shapes)
        model = TINY.assemble(params, Compute(dtype=options.compute_dtype))
        if options.lora is not None:
            model = model.adapted(options.lora, 0, options.dtype, where)
    sampler = Sampler(model, max_length=given.data.row_length, rows=given.rl.draw.rows, cache=given.rl.draw.cache)
    assert said.state[SECOND] == on_first_device(sampler.layers)
    drawn = sessions(given, where)
    assert drawn.count == (2 if provider == "gemini" else 1)
    total = 0
    for _ in range(drawn.count):
        session = sampler.sibling_session(6 // drawn.count, 3, given.data.row_length)
        assert session._cache.size == drawn.rows
        total += on_first_device(session._cache._arrays())
        total += on_first_device(session._siblings._empty_pages(16))
    (name,) = (name for name in said.between[DRAWN].working if name.startswith("keys and values"))
    assert said.between[DRAWN].working[name] == total
    assert said.total == sum(said.state.values()) + max(
        sum(said.working.values()), *(sum(phase.working.values()) for phase in said.between.values())
    )


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_the_reference_is_all_weights_or_the_adapters(lora):
    mesh = {"data": 1, "fsdp": 4, "tensor": 2}
    said, _ = estimated(configured(mesh, rl={"kl": 0.1}, lora=lora), TINY)
    plain, _ = estimated(configured(mesh, lora=lora), TINY)
    trained = said.state["parameters in float32" if lora is None else "adapters in float32"]
    assert said.state["reference in float32"] == trained
    assert "the reference is computed" in said.between and "the reference is computed" not in plain.between
    assert sum(said.state.values()) == sum(plain.state.values()) + trained
    # The shares of whole weights and of adapters, by hand.
    whole = sum(math.prod(weight.shape) for weight in TINY.weights().values()) * 4
    assert whole / 8 <= sum(plain.state.values()) and (trained < whole / 8 or lora is None)


def test_a_run_has_on_a_device_what_was_said(settings, monkeypatch):  # noqa: F811
    """Live arrays while replies are drawn, and between a step and the next."""
    given = settings(rl={**settings().rl.model_dump(exclude_unset=True), "kl": 0.1, "turns": 2}, steps=2)
    seen, estimates = {"drawn": [], "between": []}, []

    def live():
        gc.collect()
        # By shape: to ask for an array's shards would make further arrays.
        first, total = jax.devices()[0], 0
        for array in jax.live_arrays():
            if not array.is_deleted() and first in array.sharding.device_set:
                total += math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
        return total - before

    pages_of, batch, estimate = SiblingCache._empty_pages, RolloutSource.batch, memory.estimate

    def drawing(self, most):
        pages = pages_of(self, most)
        seen["drawn"].append(live())
        return pages

    def between(self, *arguments):
        made = batch(self, *arguments)
        seen["between"].append(live())
        return made

    def estimating(*arguments):
        estimates.append(estimate(*arguments))
        return estimates[-1]

    monkeypatch.setattr(SiblingCache, "_empty_pages", drawing)
    monkeypatch.setattr(RolloutSource, "batch", between)
    monkeypatch.setattr("aloe_jax.training.summary.estimate", estimating)
    gc.collect()
    before = 0
    before = live()
    train(given)
    state = sum(estimates[0].state.values())
    (cache,) = (v for name, v in estimates[0].between[DRAWN].working.items() if name.startswith("keys and values"))
    batch = estimates[0].working["batch"]
    small = 4096  # numbers and ids of the rows
    first, second = seen["between"]
    assert first == state and state < second <= state + 2 * batch
    assert state + cache <= seen["drawn"][0] <= state + cache + small
    assert max(seen["drawn"]) <= state + cache + 2 * batch + small


@pytest.mark.parametrize(("rows", "length", "turn"), [(64, 512, "a token of every conversation"), (16, 2048, "read")])
def test_the_estimate_of_drawing_is_near_what_the_compiler_sets_aside(rows, length, turn):
    """Prefill and decode on one device: what they take beside weights and cache."""
    spec = replace(MEDIUM, vocab=65_536 if rows == 64 else 512)
    mesh = make_mesh(MeshSettings(data=1, fsdp=1, tensor=1), jax.devices()[:1])
    values = configured({}).model_dump() | {"mesh": {"data": 1, "fsdp": 1, "tensor": 1}}
    values["rl"] |= {"conversations": rows // 4, "group": 4, "heldout": 0}
    values["rl"]["draw"] |= {"rows": rows}
    values["data"] |= {"row_length": length, "rows": rows // 4}
    given = resolve(TrainSettings.model_validate(values), spec, mesh, "cpu")
    rl, data = given.rl, given.data
    example = BatchShape(data.rows, length, rl.conversations, rl.turns, rl.group).example()
    working = dict(memory.estimate(given, spec, mesh, example, 10).between[DRAWN].working)
    (name,) = (name for name in working if name.startswith("keys and values"))
    cache_bytes = working.pop(name)
    del working["batch"]
    assert any(turn in name for name in working)

    def ints(*shape, dtype=jnp.int32):
        return on_mesh(jax.ShapeDtypeStruct(shape, dtype), ("batch", *(None,) * (len(shape) - 1)), mesh)

    graph, params = spec.abstract("float32", mesh, Compute())[:2]
    layers = layer_shapes(spec, "float32", "float32", None, mesh)
    cache = cache_shapes(spec, rows // 4, length, "float32", mesh)
    pages = page_shapes(spec, rows, rl.draw.max_new_tokens, "float32", mesh)
    few = rows_read(rows // 4, "tpu")
    drawn = programs.DrawnRows(ints(rows), ints(rows), ints(rows), ints(rows, dtype=jnp.uint32), ints(rows, length))
    ends = programs.Ends(np.full(8, -1, np.int32), np.int32(rows + 1), np.bool_(True))
    with jax.set_mesh(mesh):
        reading = programs.prefill.lower(graph, params, layers, cache, ints(few), ints(few, PAGE), ints(few), ints(few),
                                         shards=1, dtype="float32").compile()  # fmt: skip
        warm = checked_settings(1.0, 0, 1.0, 0.0, 1.0)
        drawing = siblings.decode_siblings.lower(graph, params, layers, cache, pages, drawn, warm, ends,
                                                 dtype="float32").compile()  # fmt: skip
    needed = [program.memory_analysis().temp_size_in_bytes for program in (reading, drawing)]
    said = sum(working.values())
    print(f"{rows} rows: {said / 2**20:.1f} MiB said, prefill {needed[0] / 2**20:.1f}, decode {needed[1] / 2**20:.1f}, "
          f"cache {cache_bytes / 2**20:.1f}")  # fmt: skip
    assert 0.5 < said / max(needed) < 2
