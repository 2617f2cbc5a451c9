"""The chunked kernel against dense attention: output and gradients, on random trees, with windows, on meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aloe_jax.data.packing import pack
from aloe_jax.models.kernels import chunked
from aloe_jax.models.kernels.chunked import interval_attention
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.parallel.settings import MeshSettings
from tests.interval_attention import differences, inputs, outcome, packed_rows
from tests.random_trees import draw_tree


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(chunked, "BLOCK", 16)
    monkeypatch.setattr(chunked, "STRIP", 8)


@pytest.mark.parametrize(
    ("shape", "windows"),
    [
        ((3, 77, 4, 2, 8), (None,) * 8),  # 77 is no multiple of a block
        ((3, 77, 4, 2, 8), (2, 6, 40, 10**6)),
        ((1, 48, 3, 1, 80), (5, 10**6)),
        ((2, 7, 2, 2, 4), (None,) * 3),  # shorter than a block
    ],
)
def test_kernel_is_dense(shape, windows):
    assert max(differences(interval_attention, shape, windows).values()) < 1e-5


@pytest.mark.parametrize(("block", "strip"), [(8, 32), (32, 8), (80, 4)])
def test_sizes_of_blocks_and_strips_change_nothing(monkeypatch, block, strip):
    monkeypatch.setattr(chunked, "BLOCK", block)
    monkeypatch.setattr(chunked, "STRIP", strip)
    assert max(differences(interval_attention, (2, 77, 2, 1, 8), (None, None)).values()) < 1e-5


@pytest.mark.parametrize(
    ("mesh", "shape", "windows"),
    [
        pytest.param((8, 1, 1), (8, 40, 4, 2, 8), (None, None), marks=pytest.mark.soak),
        ((2, 4, 1), (8, 40, 4, 2, 8), (7, 3)),
        pytest.param((1, 2, 4), (2, 40, 8, 4, 8), (None, None), marks=pytest.mark.soak),
        ((1, 2, 4), (3, 40, 12, 6, 8), (9,)),  # neither rows nor key heads divide
    ],
)
def test_kernel_is_dense_on_meshes(mesh, shape, windows):
    mesh = make_mesh(MeshSettings(data=mesh[0], fsdp=mesh[1], tensor=mesh[2]))
    assert max(differences(interval_attention, shape, windows, mesh=mesh).values()) < 1e-5


def test_another_tree_is_another_result():
    """The control: a kernel that took every subtree to end a little early is told apart."""

    def early(ends):
        return np.maximum(ends - 1, np.arange(ends.shape[1]) + 1)

    assert min(differences(interval_attention, (2, 50, 2, 1, 8), padding=0, change=early).values()) > 1e-2


def test_tokens_that_see_only_themselves_give_their_own_value():
    query, key, value = inputs(np.random.default_rng(0), 2, 40)
    alone = np.tile(np.arange(1, 41, dtype=np.int32), (2, 1))
    weights = np.random.default_rng(1).standard_normal(query.shape).astype(np.float32)
    found = outcome(interval_attention)((50 * query, key, value), weights, alone)
    np.testing.assert_array_equal(found["out"], np.repeat(value, 2, axis=2))
    np.testing.assert_allclose(found["query"], 0, atol=1e-5)
    np.testing.assert_allclose(found["key"], 0, atol=1e-4)  # fifty times as steep
    np.testing.assert_allclose(found["value"], weights.reshape(2, 40, 2, 2, 8).sum(axis=3), rtol=1e-6)


def test_bfloat16_stays_near():
    rng = np.random.default_rng(0)
    ends, _ = packed_rows(rng, 2, 60)
    qkv, run = tuple(inputs(rng, 2, 60)), outcome(interval_attention)
    weights = rng.standard_normal(qkv[0].shape).astype(np.float32)
    exact = run(qkv, weights, ends)
    rounded = run(tuple(x.astype(jnp.bfloat16) for x in qkv), weights, ends)
    for name, values in exact.items():
        assert rounded[name].dtype == jnp.bfloat16
        assert np.abs(rounded[name].astype(np.float32) - values).max() < 0.03 * np.abs(values).max(), name


def test_what_the_mask_empties_is_skipped():
    """Eight conversations in a row: little more is visited than what they see, a fifth of what a causal mask shows."""
    random = np.random.default_rng(0)
    rows, _ = pack([draw_tree(random, 6, 50, f"t{i}") for i in range(8)], 8192)
    (length,) = rows.length
    ends, block, strip = rows.subtree_end[:, : length // 128 * 128], 128, 128
    at = np.arange(ends.shape[1])
    seen = int((np.minimum(ends, ends.shape[1]) - at).sum())
    plan = chunked._plan(jnp.asarray(ends), block, strip)
    visited = block * (ends.shape[1] + strip * int(plan.strips.sum()))
    assert seen < visited < 2 * seen
    assert visited < 0.2 * ends.shape[1] ** 2 / 2


@pytest.mark.parametrize("length", [pytest.param(4096, marks=pytest.mark.soak), 8000])
def test_no_array_has_a_side_of_the_row_twice(length):
    row, ends = jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32), jax.ShapeDtypeStruct((1, length), jnp.int32)

    def total(query, key, value, ends):
        return interval_attention(query, key, value, ends).sum()

    compiled = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(row, row, row, ends).compile()
    assert f"{length},{length}" not in compiled.as_text()
    # With blocks of 16 the plan's blocks x keys of bits are the largest array.
    assert compiled.memory_analysis().temp_size_in_bytes < length**2
