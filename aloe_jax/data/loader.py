"""Rows → batches: a pure function of data, seed and step, so that a position is one number."""

from __future__ import annotations

import functools
import hashlib

import numpy as np

from aloe_jax.data.packing import Rows
from aloe_jax.errors import AloeError

Batch = dict[str, np.ndarray]
FIELDS = (
    "tokens",
    "positions",
    "subtree_end",
    "parent",
    "reply",
    "scored",
    "pairs",
    "pair_turn",
    "reply_length",
    "length",
)


class Loader:
    """Batches of `size` rows from an endless stream: every epoch is its own permutation of all rows.

    `extra` holds further arrays with one entry a row (reference log-probs).
    """

    def __init__(self, rows: Rows, size: int, seed: int, extra: Batch | None = None):
        self.rows, self.size, self.seed = rows, size, seed
        self._fields: Batch = {name: getattr(rows, name) for name in FIELDS} | (extra or {})

    def indices(self, step: int) -> np.ndarray:
        """Row numbers of batch `step` (0-based). An epoch's last batch goes on into the next epoch."""
        start = step * self.size
        stream = range(start, start + self.size)
        return np.array([self._order(i // len(self.rows))[i % len(self.rows)] for i in stream])

    def batch(self, step: int) -> Batch:
        """Batch `step`: every field of Rows as [B, ...]."""
        index = self.indices(step)
        return {name: values[index] for name, values in self._fields.items()}

    def steps_per_epoch(self) -> int:
        """Steps after which every row has been seen at least once."""
        return -(-len(self.rows) // self.size)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with the rows, their order, the batch size or the seed: what a saved position refers to."""
        digest = hashlib.sha256(f"{self.size} {self.seed} {self.rows.tree_ids}".encode())
        for name in FIELDS:
            digest.update(np.ascontiguousarray(getattr(self.rows, name)))
        return digest.hexdigest()[:16]

    def position(self, step: int) -> dict[str, str | int]:
        """What to save so that a later run goes on with batch `step`."""
        return {"step": step, "fingerprint": self.fingerprint}

    def resume(self, position: dict[str, str | int]) -> int:
        """The step to go on with. Raises AloeError when the data, the batch size or the seed changed."""
        if position["fingerprint"] != self.fingerprint:
            raise AloeError(
                f"the data changed since step {position['step']} was saved (fingerprint {position['fingerprint']}, "
                f"now {self.fingerprint}): restore data, tokenizer, data.* and seed, or give a new output"
            )
        return int(position["step"])

    @functools.lru_cache(maxsize=2)  # noqa: B019 - a loader lives as long as its run
    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))


def evaluation_batches(rows: Rows, size: int, extra: Batch | None = None) -> list[Batch]:
    """All rows once, in order, in batches of one shape; the last one is filled up with rows that score nothing."""
    fields: Batch = {name: getattr(rows, name) for name in FIELDS} | (extra or {})
    batches = []
    for start in range(0, len(rows), size):
        batch = {name: values[start : start + size] for name, values in fields.items()}
        missing = size - len(batch["tokens"])
        if missing:
            batch = {
                name: np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)])
                for name, values in batch.items()
            }
            # Attention needs every token to see something: filler tokens see themselves.
            own = np.arange(rows.tokens.shape[1], dtype=np.int32)
            batch["subtree_end"][-missing:] = own + 1
            batch["parent"][-missing:] = own
        batches.append(batch)
    return batches
