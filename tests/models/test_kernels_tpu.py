"""The TPU kernel against dense attention, its steps run as plain XLA; the blocks it visits; compiles for each TPU."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding, PartitionSpec

from aloe_jax.models.kernels import schedule, tpu
from aloe_jax.models.kernels.schedule import Mask
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.parallel.topology import compile_for, tpu_mesh
from tests.interval_attention import dense_mask, differences, packed_rows
from tests.parallel.test_topology import needs_libtpu

BLOCK = 16
kernel = partial(tpu.interval_attention, interpret=True)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(tpu, "BLOCKS", (BLOCK,))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("shape", "windows"),
    [
        ((3, 77, 4, 2, 8), (None, None, None)),
        ((3, 77, 4, 2, 8), (2, 6, 40)),
        ((1, 48, 3, 1, 80), (5, 10**6)),
        ((2, 7, 2, 2, 4), (None,)),
    ],
)
def test_kernel_is_dense(shape, windows):
    assert max(differences(kernel, shape, windows).values()) < 1e-5


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("mesh", "shape", "windows"),
    [
        pytest.param((2, 2, 2), (4, 40, 4, 2, 8), (None, None), marks=pytest.mark.soak),
        pytest.param((1, 2, 4), (4, 40, 4, 2, 8), (None, None), marks=pytest.mark.soak),  # two devices to a key head
        ((1, 2, 4), (2, 40, 12, 6, 8), (9, 3)),  # devices of one key head and devices of two
        ((1, 2, 4), (3, 40, 6, 3, 8), (None, None)),  # neither rows nor heads divide
    ],
)
def test_kernel_is_dense_on_meshes(mesh, shape, windows):
    mesh = make_mesh(MeshSettings(data=mesh[0], fsdp=mesh[1], tensor=mesh[2]))
    assert max(differences(kernel, shape, windows, mesh=mesh).values()) < 1e-5


@pytest.mark.usefixtures("small_blocks")
def test_another_tree_is_another_result():
    """The control: a kernel that took every subtree to end a little early is told apart."""

    def early(ends):
        return np.maximum(ends - 1, np.arange(ends.shape[1]) + 1)

    assert min(differences(kernel, (2, 50, 2, 1, 8), padding=0, change=early).values()) > 1e-2


@pytest.mark.usefixtures("small_blocks")
def test_kernel_is_dense_as_a_tpu_would_run_it():
    """In JAX's simulator of a TPU: memory that nobody wrote is NaN, nothing reads out of bounds, nothing races."""
    simulated = pltpu.InterpretParams(uninitialized_memory="nan", out_of_bounds_reads="raise", detect_races=True)
    simulated_kernel = partial(tpu.interval_attention, interpret=simulated)
    assert max(differences(simulated_kernel, (2, 40, 2, 1, 8), (6,)).values()) < 1e-5


def visited(found):
    """(row, major, minor) of every visit, in order."""
    return list(zip(*(np.asarray(x)[: found.total].tolist() for x in found[:3]), strict=True))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([4, 8, 16]), st.sampled_from([1, 3, 6]), st.sampled_from([0, 5, 20]))
def test_exactly_the_blocks_that_hold_a_visible_pair_are_visited(seed, block, blocks, padding):
    length = block * blocks
    ends, _ = packed_rows(np.random.default_rng(seed), 2, length, min(padding, length - 1))
    mask = dense_mask(ends).reshape(2, blocks, block, blocks, block)
    kinds = np.asarray(schedule.block_kinds(Mask(jnp.asarray(ends)), block))
    np.testing.assert_array_equal(kinds != schedule.EMPTY, mask.any((2, 4)))
    np.testing.assert_array_equal(kinds == schedule.FULL, mask.all((2, 4)))
    for turned in (kinds, kinds.swapaxes(1, 2)):
        found = schedule.visits(jnp.asarray(turned))
        assert visited(found) == [tuple(place) for place in np.argwhere(turned)]
        flags = np.asarray(found.flags)[: found.total]
        partial_blocks = [turned[place] == schedule.PARTIAL for place in visited(found)]
        np.testing.assert_array_equal(flags & schedule.MASKED != 0, partial_blocks)
        runs = [place[:2] for place in visited(found)]
        opens = [here != before for here, before in zip(runs, [None, *runs[:-1]], strict=True)]
        np.testing.assert_array_equal(flags & schedule.FIRST != 0, opens)
        np.testing.assert_array_equal(flags & schedule.LAST != 0, [*opens[1:], True])
        assert sum(opens) == 2 * blocks  # every block of the result is written
        by_list = schedule.lists(jnp.asarray(turned))
        for row, major in np.ndindex(2, blocks):
            full, seen = by_list.full[row, major], by_list.seen[row, major]
            order = np.asarray(by_list.minor[row, major])
            assert set(order[:full]) == set(np.flatnonzero(turned[row, major] == schedule.FULL))
            assert set(order[full:seen]) == set(np.flatnonzero(turned[row, major] == schedule.PARTIAL))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 7, 20, 10**6]))
def test_a_window_leaves_out_blocks_and_no_pair(seed, window):
    ends, positions = packed_rows(np.random.default_rng(seed), 2, 48, padding=7)
    mask = dense_mask(ends, positions, window).reshape(2, 6, 8, 6, 8)
    kinds = np.asarray(schedule.block_kinds(Mask(jnp.asarray(ends), jnp.asarray(positions), jnp.int32(window)), 8))
    assert (kinds[mask.any((2, 4))] != schedule.EMPTY).all()
    assert mask.all((2, 4))[kinds == schedule.FULL].all()
    assert (kinds[~dense_mask(ends).reshape(2, 6, 8, 6, 8).any((2, 4))] == schedule.EMPTY).all()


def test_a_window_on_one_path_visits_a_band():
    ends, positions = jnp.full((1, 64), 64, jnp.int32), jnp.arange(64)[None]
    kinds = np.asarray(schedule.block_kinds(Mask(ends, positions, jnp.int32(9)), 8))[0]
    np.testing.assert_array_equal(kinds != schedule.EMPTY, np.tri(8, dtype=bool) & ~np.tri(8, k=-2, dtype=bool))


@pytest.mark.parametrize(("length", "block"), [(2048, 512), (8192, 512), (700, 384), (300, 384), (100, 128), (1, 128)])
def test_blocks_are_chosen_by_length(length, block):
    assert tpu.block_size(length) == block


LENGTH = 2048


@needs_libtpu
@pytest.mark.parametrize(
    "topology",
    ["v5e:2x2", *(pytest.param(name, marks=pytest.mark.soak) for name in ("v4:2x2x1", "v5p:2x2x1", "v6e:2x2"))],
)
@pytest.mark.parametrize("windowed", [False, True])
def test_compiles_for_tpus_without_a_square_of_scores(topology, windowed):
    mesh = tpu_mesh(topology, MeshSettings(fsdp=2, tensor=2))
    rows, heads = PartitionSpec(("data", "fsdp")), PartitionSpec(("data", "fsdp"), None, "tensor")

    def array(shape, spec=rows, dtype=jnp.int32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    def gradients(query, key, value, ends, positions, window):
        def total(query, key, value):
            place = (positions, window) if windowed else ()
            return tpu.interval_attention(query, key, value, ends, *place).astype(jnp.float32).sum()

        return jax.grad(total, argnums=(0, 1, 2))(query, key, value)

    query, key = (array((2, LENGTH, n, 128), heads, jnp.bfloat16) for n in (8, 2))
    tokens = array((2, LENGTH))
    compiled = compile_for(mesh, gradients, query, key, key, tokens, tokens, array((), PartitionSpec()))
    scores = 4 * 4 * LENGTH**2  # bytes, of one row's four heads on a chip
    assert compiled.memory_analysis().peak_memory_in_bytes < scores / 3
