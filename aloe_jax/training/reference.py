"""Reference log-probs: computed once before the first step, stored by reply id under a fingerprint.

The reference never changes during a run, so its log-probs are data. They are stored under the reference's
fingerprint (weights, architecture, chat template) by reply id (which contains a digest of the reply's whole
path), never by order: shuffling, packing and batch size may change without touching them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aloe_jax.data.loader import evaluation_batches
from aloe_jax.data.packing import Rows
from aloe_jax.errors import AloeError

PART = 64  # batches after which what is finished is written


def reference_fingerprint(params: Any, description: str) -> str:
    """Digest of all weights in a tree and of `description` (architecture and chat template)."""
    digest = hashlib.sha256(description.encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(jax.device_get(leaf)).view(np.uint8))
    return digest.hexdigest()[:16]


class ReferenceCache:
    """Log-probs by reply id, in part files under DIRECTORY/FINGERPRINT/."""

    def __init__(self, directory: str | Path, fingerprint: str):
        self.directory = Path(directory) / fingerprint
        self.directory.mkdir(parents=True, exist_ok=True)
        self.logps: dict[str, float] = {}
        self._parts = sorted(self.directory.glob("part-*.npz"))
        for part in self._parts:
            try:
                with np.load(part, allow_pickle=False) as stored:
                    self.logps.update(zip(stored["ids"].tolist(), stored["logps"].tolist(), strict=True))
            except (OSError, ValueError, KeyError) as error:
                raise AloeError(f"{part}: not a file of reference log-probs ({error}); delete it") from None

    def add(self, logps: dict[str, float]) -> None:
        """Store more log-probs; on disk when this returns."""
        part = self.directory / f"part-{len(self._parts):05d}.npz"
        partial = part.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                np.savez(file, ids=np.array(list(logps)), logps=np.array(list(logps.values()), np.float32))
            os.replace(partial, part)
        except OSError as error:
            raise AloeError(f"{part}: cannot write reference log-probs ({error.strerror}); free some space") from None
        self._parts.append(part)
        self.logps.update(logps)

    def for_rows(
        self,
        rows: Rows,
        size: int,
        logps_of: Callable[[dict[str, np.ndarray]], jax.Array],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> np.ndarray:
        """Reference log-probs of every pair, float32 [N, P, 2], computing what is not stored yet.

        `logps_of` takes a host batch of `size` rows and returns [B, R] on device.
        """
        todo = [i for i, ids in enumerate(rows.reply_ids) if any(reply not in self.logps for reply in ids)]
        if todo:
            missing = _subset(rows, todo)
            batches = evaluation_batches(missing, size)
            fresh: dict[str, float] = {}
            for number, batch in enumerate(batches):
                values = np.asarray(logps_of(batch))
                for row, ids in enumerate(missing.reply_ids[number * size : (number + 1) * size]):
                    fresh.update(zip(ids, values[row, 1 : len(ids) + 1].tolist(), strict=True))
                if (number + 1) % PART == 0 or number + 1 == len(batches):
                    self.add(fresh)
                    fresh = {}
                progress(number + 1, len(batches))
        by_number = np.zeros(rows.reply_length.shape, np.float32)  # [N, R]
        for row, ids in enumerate(rows.reply_ids):
            by_number[row, 1 : len(ids) + 1] = [self.logps[reply] for reply in ids]
        flat = rows.pairs.reshape(len(rows), -1)
        return np.take_along_axis(by_number, flat, axis=1).reshape(rows.pairs.shape)


def _subset(rows: Rows, index: list[int]) -> Rows:
    fields: dict[str, Any] = {
        name: value[index] if isinstance(value, np.ndarray) else [value[i] for i in index]
        for name, value in vars(rows).items()
    }
    return Rows(**fields)
