"""First-fit decreasing: which row each tree goes to, and which row length would suit the trees best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STEP = 32  # row lengths are tried in multiples of this, which suits registers and meshes; kernels fill up their blocks
TRIED = 512  # at most so many row lengths
SAMPLE = 1000  # trees that a row length is tried on


def first_fit(lengths: Sequence[int], room: int) -> list[int]:
    """The bin of each length: the first with enough left of its `room`. No length may be larger than `room`.

    First-fit decreasing when `lengths` descend. n lengths take n log n: bins are the leaves of a binary tree whose
    inner nodes hold the largest room below them, so that the first bin with enough is found from the top.
    """
    leaves = 1
    most = [0, room]  # most[1] is the top, most[i] has the children 2 i and 2 i + 1, the leaves come last
    bins: list[int] = []
    for length in lengths:
        if most[1] < length:  # no bin has enough: as many again, empty
            most = _doubled(most, leaves, room)
            leaves *= 2
        node = 1
        while node < leaves:
            node = 2 * node if most[2 * node] >= length else 2 * node + 1
        bins.append(node - leaves)
        most[node] -= length
        while node > 1:
            node //= 2
            left, right = most[2 * node], most[2 * node + 1]
            most[node] = left if left >= right else right
    return bins


def _doubled(most: list[int], leaves: int, room: int) -> list[int]:
    levels = [[max(most[1], room)]]
    width = 1
    while width <= leaves:
        levels.append(most[width : 2 * width] + [room] * width)
        width *= 2
    return [0, *(value for level in levels for value in level)]


def best_row_length(groups: Sequence[np.ndarray], longest: int, least: int = 1) -> tuple[int, float] | None:
    """The row length up to `longest` tokens that leaves least empty, and the share of it that would be full.

    Only lengths at which there are `least` rows or more count: one row of all that there is would be full, too.

    `groups` are the lengths of the trees of each source, packed in rows of their own. Every tree has to fit. Of lengths
    that fill within one percent of the best the shortest is taken. Large sources are judged by an even sample of
    their trees. None when no multiple of STEP holds the longest tree and leaves so many
    rows.
    """
    shortest = -(-max(int(lengths.max()) for lengths in groups) // STEP) * STEP
    if shortest > longest:
        return None
    # The longest first, then evenly down to the shortest tree.
    samples = [np.sort(lengths)[:: -max(1, len(lengths) // SAMPLE)] for lengths in groups]
    stride = STEP * max(1, -(-(longest - shortest) // (STEP * TRIED)))
    tried = {length: _fill(groups, samples, length) for length in range(shortest, longest + 1, stride)}
    fills = {length: fill for length, (fill, rows) in tried.items() if rows >= least}
    if not fills:
        return None
    enough = max(fills.values()) - 0.01
    length = next(length for length, fill in fills.items() if fill >= enough)
    return length, fills[length]


def _fill(groups: Sequence[np.ndarray], samples: Sequence[np.ndarray], row_length: int) -> tuple[float, float]:
    """The share that is full, and how many rows there are."""
    tokens = rows = 0.0
    for lengths, sample in zip(groups, samples, strict=True):
        tokens += float(lengths.sum())
        bins = 1 + max(first_fit(sample.tolist(), row_length))
        rows += bins * float(lengths.sum()) / float(sample.sum())
    return tokens / (rows * row_length), rows
