"""Rows → batches: a pure function of data, seed and step, so that a position is one number."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from aloe_jax.data.packing import Part, Rows
from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON

Batch = dict[str, np.ndarray]
FIELDS = tuple(field.name for field in dataclasses.fields(Rows) if field.type == "np.ndarray")


class Loader:
    """Batches of `size` rows from an endless stream of epochs.

    An epoch has of each part `weight` times as many rows as the part has: whole passes over all its rows and, of a
    weight that is no whole number, a share that moves on from epoch to epoch until it has been everywhere. All of them
    are shuffled together, by seed and epoch. `parts` None: all rows once.
    """

    def __init__(self, rows: Rows, size: int, seed: int, parts: Sequence[Part] | None = None):
        self.rows, self.size, self.seed = rows, size, seed
        self.parts = tuple(parts) if parts is not None else (Part("the data", 0, len(rows)),)
        self._fields: Batch = {name: getattr(rows, name) for name in FIELDS}
        # At least one row: a part of small weight is seen in every epoch.
        self._taken = [max(1, int(part.weight * (part.stop - part.start) + 0.5)) for part in self.parts]
        self.rows_per_epoch = sum(self._taken)

    def with_arrays(self, arrays: Batch) -> Loader:
        """The same batches with further arrays that have one entry per row, such as reference log-probs."""
        loader = copy.copy(self)
        loader._fields = self._fields | arrays
        return loader

    def indices(self, step: int) -> np.ndarray:
        """Row numbers of batch `step` (0-based). An epoch's last batch goes on into the next epoch."""
        start = step * self.size
        found: list[np.ndarray] = []
        while (left := (step + 1) * self.size - start) > 0:
            epoch, offset = divmod(start, self.rows_per_epoch)
            found.append(self._order(epoch)[offset : offset + left])
            start += len(found[-1])
        return np.concatenate(found)

    def batch(self, step: int, share: slice = slice(None)) -> Batch:
        """Batch `step`: every field of Rows as [B, ...]; `share`: only these of its rows, such as one host feeds."""
        index = self.indices(step)[share]
        return {name: values[index] for name, values in self._fields.items()}

    def tree_ids(self, step: int) -> list[str]:
        """The conversations of batch `step`."""
        return [tree for row in self.indices(step) for tree in self.rows.tree_ids[row]]

    def steps_per_epoch(self) -> int:
        """Steps after which every row of a part of weight 1 or more has been seen at least once."""
        return -(-self.rows_per_epoch // self.size)

    @functools.cached_property
    def fingerprint(self) -> dict[str, JSON]:
        """What a saved position refers to: batch size, seed, and each part's rows in their order and weight. JSON."""
        parts: list[JSON] = [{"name": p.name, "rows": _digest(self.rows, p), "weight": p.weight} for p in self.parts]
        return {"data.rows": self.size, "seed": self.seed, "parts": parts}

    def position(self, step: int) -> dict[str, JSON]:
        """What to save so that a later run goes on with batch `step`. JSON."""
        return {"step": step, "fingerprint": self.fingerprint}

    def resume(self, position: Mapping[str, JSON]) -> int:
        """The step to go on with. Raises AloeError that says what of data, mixture, batch size and seed changed."""
        step = position["step"]
        assert isinstance(step, int)
        if position["fingerprint"] != self.fingerprint:
            raise AloeError(
                f"the data changed since step {step} was saved: "
                f"{_difference(position['fingerprint'], self.fingerprint)}; "
                "restore data, tokenizer, data.* and seed, or give a new output"
            )
        return step

    @functools.lru_cache(maxsize=2)  # noqa: B019 - a loader lives as long as its run
    def _order(self, epoch: int) -> np.ndarray:
        chosen: list[np.ndarray] = []
        for number, (part, taken) in enumerate(zip(self.parts, self._taken, strict=True)):
            count = part.stop - part.start
            passes, more = divmod(taken, count)
            chosen += [np.arange(part.start, part.stop)] * passes
            if more:
                # A window that moves over one shuffled circle: no row comes twice before all others came once.
                circle = np.random.default_rng([self.seed, number, 1]).permutation(count)
                window = (epoch * more + np.arange(more)) % count
                chosen.append(part.start + circle[window])
        rows = np.concatenate(chosen)
        return rows[np.random.default_rng([self.seed, epoch]).permutation(len(rows))]


def _digest(rows: Rows, part: Part) -> str:
    """Of a part's rows, without the padding that other parts of a mixture make them have."""
    own = slice(part.start, part.stop)
    digest = hashlib.sha256(f"{rows.tokens.shape[1]} {rows.tree_ids[own]}".encode())
    for name in ("tokens", "positions", "subtree_end", "parent", "reply"):
        digest.update(np.ascontiguousarray(getattr(rows, name)[own]))
    turns = rows.pair_turn[own]
    digest.update(np.stack([*np.nonzero(turns)]))
    digest.update(np.ascontiguousarray(rows.pairs[own][turns > 0]))
    digest.update(np.ascontiguousarray(turns[turns > 0]))
    return digest.hexdigest()[:16]


def _difference(before: JSON, now: dict[str, JSON]) -> str:
    """What changed, in words."""
    if not isinstance(before, dict):
        return "it was saved by another version of this program"
    changes = [
        f"{name} was {before.get(name)}, now {now[name]}"
        for name in ("seed", "data.rows")
        if before.get(name) != now[name]
    ]
    old, new = _parts(before), _parts(now)
    changes += [f"{name} is no longer part of it" for name in old if name not in new]
    for name, part in new.items():
        if name not in old:
            changes.append(f"{name} was not part of it")
        elif part["rows"] != old[name]["rows"]:
            changes.append(f"{name} gives other rows (its content, the tokenizer or data.row_length changed)")
        elif part["weight"] != old[name]["weight"]:
            changes.append(f"the weight of {name} was {old[name]['weight']:g}, now {part['weight']:g}")
    return ", ".join(changes) or "the order of its sources"


def _parts(fingerprint: dict[str, JSON]) -> dict[JSON, dict[str, JSON]]:
    """The parts of a fingerprint by name."""
    parts = fingerprint.get("parts")
    return {part["name"]: part for part in (parts if isinstance(parts, list) else []) if isinstance(part, dict)}


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
