"""Rollouts → one batch of packed rows of a shape that never changes, with what was drawn and what it earned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from aloe_jax.data.bins import first_fit
from aloe_jax.data.loader import FIELDS, Batch
from aloe_jax.data.packing import Rows, rows_of
from aloe_jax.data.trees import TokenTree
from aloe_jax.rollouts.advantages import advantages
from aloe_jax.rollouts.rollout import Rollout
from aloe_jax.rollouts.settings import AdvantageName


@dataclass(frozen=True)
class BatchShape:
    """The shape of every batch of a run: N rows of T tokens for `rollouts` conversations of `groups` groups."""

    rows: int  # N, at least as many as rollouts: each fits a row of its own
    length: int  # T
    rollouts: int
    groups: int  # of one rollout
    group: int  # G
    parts: int = 1  # in which a batch is computed; rows with replies come in the first of them

    @property
    def replies(self) -> int:
        """R: all of a batch could be in one row; number 0 is none."""
        return 1 + min(self.rollouts * self.groups * self.group, self.length)

    def example(self) -> Rows:
        """Rows of these shapes without anything in them."""
        return padded(rows_of([[]] * self.rows, self.length), self)


def batch_of(
    rollouts: Sequence[Rollout], shape: BatchShape, stop: int, advantage: AdvantageName, mask_overlong: bool
) -> tuple[Rows, Batch]:
    """Packed rows, and beside their fields what objectives read of rollouts:

    advantage float32 [N,R]; weight float32 [N,R], 1 for a reply that is learned from; rival int32 [N,R], of the best
    and the worst of a group's replies that are learned from, if they do not earn the same, the number of the other one,
    otherwise 0; drawn_logps float32 [N,T], in nats, of every token of a reply as the sampler had it. `stop` closes a
    turn where the conversation goes on. A group without rewards is not learned from, nor is, with `mask_overlong`, a
    reply that was cut.
    """
    trees = [rollout.tree(stop) for rollout in rollouts if rollout.groups]
    members = _in_rows(trees, shape)
    rows = padded(rows_of(members, shape.length), shape)
    further: Batch = {
        "advantage": np.zeros((shape.rows, shape.replies), np.float32),
        "weight": np.zeros((shape.rows, shape.replies), np.float32),
        "rival": np.zeros((shape.rows, shape.replies), np.int32),
        "drawn_logps": np.zeros((shape.rows, shape.length), np.float32),
    }
    groups = {(rollout.id, k): group for rollout in rollouts for k, group in enumerate(rollout.groups)}
    earned = {key: advantages(advantage, group.rewards) for key, group in groups.items() if group.rewards is not None}
    for row, ids in enumerate(rows.reply_ids):
        learned: dict[tuple[str, int], dict[int, int]] = {}  # by group: sibling -> reply number
        for number, name in enumerate(ids, start=1):
            rollout, of_rollout, which = name.rsplit("/", 2)
            key = rollout, int(of_rollout)
            sibling = groups[key].siblings[int(which)]
            further["drawn_logps"][row, rows.reply[row] == number] = sibling.logps
            if key in earned and (sibling.ended or not mask_overlong):
                further["advantage"][row, number] = earned[key][int(which)]
                further["weight"][row, number] = 1.0
                learned.setdefault(key, {})[int(which)] = number
        for key, numbers in learned.items():
            best, worst = _extremes(earned[key], sorted(numbers))
            if best != worst:
                further["rival"][row, [numbers[best], numbers[worst]]] = numbers[worst], numbers[best]
    return rows, {name: getattr(rows, name) for name in FIELDS} | further


def _extremes(advantages: np.ndarray, among: Sequence[int]) -> tuple[int, int]:
    """Which of these have the largest and the smallest advantage, the first of equals; the same twice if all agree."""
    own = advantages[list(among)]
    return among[int(own.argmax())], among[int(own.argmin())]


def _in_rows(trees: Sequence[TokenTree], shape: BatchShape) -> list[list[TokenTree]]:
    """The trees of every row; rows that are needed are spread so that the first parts have them.

    Part i of a batch has the rows i, i + parts, …
    """
    longest_first = sorted(trees, key=lambda tree: -tree.length)
    filled: list[list[TokenTree]] = [[] for _ in range(shape.rows)]
    bins = first_fit([tree.length for tree in longest_first], shape.length)
    size = shape.rows // shape.parts
    for tree, number in zip(longest_first, bins, strict=True):
        part, within = divmod(number, size)
        filled[within * shape.parts + part].append(tree)
    return filled


def padded(rows: Rows, shape: BatchShape) -> Rows:
    """The same rows with room for as many replies and scored tokens as a batch can have."""

    def wide(values: np.ndarray, width: int) -> np.ndarray:
        return np.pad(values, [(0, 0), (0, width - values.shape[1])])

    return replace(rows, scored=wide(rows.scored, shape.length), reply_length=wide(rows.reply_length, shape.replies))
