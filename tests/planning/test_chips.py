"""Topologies by name, the links between chips, and the sizes of published models."""

import numpy as np
import pytest
from jax.sharding import AbstractMesh

from aloe_jax.errors import AloeError
from aloe_jax.parallel.chips import read_topology
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.parallel.topology import unplaced_mesh
from aloe_jax.planning.architectures import published
from aloe_jax.planning.demand import exchange
from aloe_jax.planning.roofline import Geometry


@pytest.mark.parametrize(
    ("text", "slices", "chips", "hosts"),
    [("v5e:4x4", 1, 16, 2), ("v5e:2x2", 2, 8, 2), ("v5p:2x2x1", 1, 4, 1), ("v4:4x4x4", 1, 64, 16), ("h100:8", 1, 8, 1)],
)
def test_topologies(text, slices, chips, hosts):
    where = read_topology(text, slices)
    assert (where.chips, where.hosts) == (chips, hosts)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("v5litepod-16", "is none; give chip and shape.*v5e: 1x1, 2x2"),
        ("v5e:4", "has 1 sides"),
        ("v5p:4x4", "has 2 sides"),
        ("v5e:0x4", "is none"),
        ("h100:2x4", "give the number of GPUs, such as h100:8"),
        ("h100", "is none"),
    ],
)
def test_what_is_no_topology(text, told):
    with pytest.raises(AloeError, match=told):
        read_topology(text)


def test_only_whole_sides_are_rings():
    assert [read_topology("v5e:8x16").closed(side) for side in (0, 1)] == [False, True]
    assert read_topology("v4:4x4x4").closed(0)
    assert not read_topology("v4:2x2x4").closed(2)
    assert not read_topology("h100:8").closed(0)


def test_exchanges_take_the_links_that_their_chips_have():
    where, gib = read_topology("v5e:4x4"), 2.0**30
    mesh = unplaced_mesh(MeshSettings(fsdp=4, tensor=4), 16)
    geometry = Geometry(where, mesh)
    gathered = exchange("all-gather", ["fsdp"], "bf16", gib, mesh)
    assert gathered.bytes == 0.75 * gib
    assert geometry.seconds(gathered) == (pytest.approx(0.75 * gib / 45e9), 0.0)
    both = exchange("all-gather", ["fsdp", "tensor"], "bf16", gib, mesh)  # along two sides of the slice
    assert geometry.seconds(both)[0] == pytest.approx(15 / 16 * gib / 90e9)
    ring = Geometry(read_topology("v5e:16x16"), AbstractMesh((1, 16, 16), ("data", "fsdp", "tensor")))
    assert ring.speed(ring.spans(["fsdp"])[0]) == 90e9
    summed = exchange("all-reduce", ["tensor"], "bf16", gib, mesh)
    assert summed.bytes == 2 * gathered.bytes


def test_between_slices_a_chip_sends_its_share_over_the_network():
    where = read_topology("v5e:2x2", slices=2)
    mesh = unplaced_mesh(MeshSettings(data=4, fsdp=2), 8, slices=2)
    geometry = Geometry(where, mesh)
    assert len(np.unique(geometry.positions.reshape(-1, 3), axis=0)) == 8
    within, between = geometry.seconds(exchange("all-reduce", ["data"], "bf16", 1e9, mesh))
    # Two chips of a slice share what goes to the other slice: each sends half of it there and hears half.
    assert between == pytest.approx(2 * 0.5 * 1e9 / 2 / 3.125e9)
    assert within == pytest.approx(2 * 0.5 * 1e9 / 45e9)


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("models/Meta-Llama-3-8B-Instruct", 8_030_261_248),
        ("gs://bucket/runs/Meta-Llama-3-70B-Instruct/", 70_553_706_496),
        ("Mistral-7B-Instruct-v0.3", 7_248_023_552),
        ("runs/sft/Qwen2-7B-Instruct", 7_615_616_512),
        ("OLMo-7B-0724-Instruct-hf", 6_888_095_744),
        ("OLMo-2-1124-7B-SFT", 7_298_617_344),
    ],
)
def test_sizes_of_published_models(path, parameters):
    assert published(path)[1].parameter_count() == parameters


def test_another_name_is_no_published_model():
    assert published("runs/sft/mine") is None
