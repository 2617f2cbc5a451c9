"""First-fit decreasing by a tree of bins, against its plain definition, and the row length that it suggests."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aloe_jax.data.bins import best_row_length, first_fit
from aloe_jax.data.packing import pack, total
from tests.benchmarks.peers.our_trees import tree_of
from tests.benchmarks.peers.task import Task


def plain_first_fit(lengths, room):
    left, bins = [], []
    for length in lengths:
        place = next((place for place, free in enumerate(left) if free >= length), len(left))
        if place == len(left):
            left.append(room)
        left[place] -= length
        bins.append(place)
    return bins


@given(st.lists(st.integers(1, 50), max_size=80), st.integers(50, 60))
def test_the_first_bin_with_room_is_found(lengths, room):
    assert first_fit(lengths, room) == plain_first_fit(lengths, room)
    lengths = sorted(lengths, reverse=True)
    assert first_fit(lengths, room) == plain_first_fit(lengths, room)


def test_it_is_not_quadratic():
    """Every bin stays nearly full, so that a search from the first bin on would take 4e10 steps."""
    assert max(first_fit([700] * 200_000, 1000)) == 199_999


ALOE = [tree_of(conversation) for conversation in Task("", vocab=1000, conversations=200).draw()]


def test_rows_of_conversation_trees_are_full():
    lengths = np.array([tree.length for tree in ALOE])
    assert 1500 < lengths.mean() < 1700
    assert pack(ALOE, 8192)[1].fill >= 0.95


def test_a_better_row_length_is_told_where_rows_are_not_full():
    poor = pack(ALOE, 2048)[1]
    assert poor.fill < 0.8 and "would be" not in str(poor)
    told = total([poor], longest=8192)
    assert told.better is not None and told.fill == poor.fill
    assert f"rows of {told.better[0]:,} would be {told.better[1]:.0%} full" in str(told)
    assert pack(ALOE, told.better[0])[1].fill >= 0.95
    full = pack(ALOE, told.better[0])[1]
    assert total([full], longest=8192).better is None
    assert total([poor], longest=1024).better is None  # no row up to there holds the longest tree


def test_sources_are_judged_together():
    long, short = np.full(40, 1000), np.full(40, 600)
    length, fill = best_row_length([long, short], 2048)
    assert length % 32 == 0
    rows = sum(1 + max(first_fit(each.tolist(), length)) for each in (long, short))
    np.testing.assert_allclose(fill, (long.sum() + short.sum()) / (rows * length))
