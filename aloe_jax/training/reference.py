"""Reference log-probs: computed once before the first step, stored by reply id, shared by all runs that need them.

The reference never changes during a run, so its log-probs are data. They are stored under the reference's
fingerprint (weights, architecture, vocabulary, chat template) by reply id (which contains a digest of the reply's
whole path), never by order: shuffling, packing and batch size may change without touching them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import uuid
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from aloe_jax.data.loader import evaluation_batches
from aloe_jax.data.packing import Rows
from aloe_jax.errors import AloeError
from aloe_jax.parallel.distributed import from_lead, is_lead
from aloe_jax.storage.files import as_path, is_remote, make_directory, write_atomically

PART = 64  # batches after which what is finished is written
_END_OF_ARCHIVE, _AFTER = b"PK\x05\x06", 18  # how the last 22 bytes of a .npz begin, and what is behind that


class ReferenceCache:
    """Log-probs by reply id, in part files under DIRECTORY/FINGERPRINT/.

    Parts are numbered in the order in which they were written, by whatever run, and the first value of a reply
    holds: a resumed run reads what it read before. On several hosts the lead reads and writes for all.
    """

    def __init__(self, directory: str | Path, fingerprint: str):
        self.directory = as_path(directory) / fingerprint
        self.logps: dict[str, float] = {}
        self._read = 0
        if is_lead():
            try:
                make_directory(self.directory)
            except OSError as error:
                raise AloeError(
                    f"{self.directory}: cannot be made ({error.strerror}); set dpo.reference_cache"
                ) from None
            self._take_in()

    def _take_in(self) -> None:
        """Read the parts that were written since the last time."""
        while (part := self._part(self._read)).exists():
            self.logps = read_part(part) | self.logps
            self._read += 1

    def _part(self, number: int) -> Path:
        return self.directory / f"part-{number:05d}.npz"

    def add(self, logps: dict[str, float]) -> None:
        """Store more log-probs; on disk when this returns. Raises AloeError for any that is not finite."""
        bad = next((reply for reply, logp in logps.items() if not math.isfinite(logp)), None)
        if bad is not None:
            raise AloeError(
                f"{self.directory}: the reference gives the reply {bad} a log-prob of {logps[bad]}: the model at "
                "model.path computes infinite values or NaN; take another one, or compute_dtype float32"
            )
        partial = self.directory / f".{uuid.uuid4().hex}.partial"
        number = self._read
        try:
            if is_remote(partial):
                self._add_to_bucket(logps)
                return
            with partial.open("wb") as file:
                file.write(_part_of(logps))
                file.flush()
                os.fsync(file.fileno())
            while not _publish(partial, self._part(number)):
                number += 1
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise AloeError(
                f"{self._part(number)}: cannot write reference log-probs ({error.strerror}); free some space"
            ) from None
        self._take_in()

    def _add_to_bucket(self, logps: dict[str, float]) -> None:
        """Store a part where nothing is renamed: two runs that do so at the same moment write one over the other.

        What is lost then is computed again by the next run that needs it.
        """
        self._take_in()
        write_atomically(self._part(self._read), _part_of(logps))
        self.logps = logps | self.logps
        self._take_in()

    def for_rows(
        self,
        rows: Rows,
        size: int,
        logps_of: Callable[[dict[str, np.ndarray]], jax.Array],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> np.ndarray:
        """Reference log-probs of every pair, float32 [N, P, 2], computing what is not stored yet.

        `logps_of` takes a host batch of `size` rows and returns [B, R], whole on every host.
        """
        unknown = np.array([any(reply not in self.logps for reply in ids) for ids in rows.reply_ids])
        todo = np.flatnonzero(from_lead(unknown)).tolist()
        if todo:
            missing = _subset(rows, todo)
            batches = evaluation_batches(missing, size)
            fresh: dict[str, float] = {}
            for number, batch in enumerate(batches):
                values = np.asarray(logps_of(batch))
                for row, ids in enumerate(missing.reply_ids[number * size : (number + 1) * size]):
                    fresh.update(zip(ids, values[row, 1 : len(ids) + 1].tolist(), strict=True))
                if is_lead() and ((number + 1) % PART == 0 or number + 1 == len(batches)):
                    self.add(fresh)
                    fresh = {}
                progress(number + 1, len(batches))
        by_number = np.zeros(rows.reply_length.shape, np.float32)  # [N, R]
        if is_lead():
            for row, ids in enumerate(rows.reply_ids):
                by_number[row, 1 : len(ids) + 1] = [self.logps[reply] for reply in ids]
        by_number = np.asarray(from_lead(by_number))
        flat = rows.pairs.reshape(len(rows), -1)
        return np.take_along_axis(by_number, flat, axis=1).reshape(rows.pairs.shape)


def _part_of(logps: dict[str, float]) -> bytes:
    """The content of a part file: a .npz of ids and log-probs, and its SHA-256, which readers of .npz skip."""
    content = io.BytesIO()
    np.savez(content, ids=np.array(list(logps)), logps=np.array(list(logps.values()), np.float32))
    return content.getvalue() + _seal(content.getvalue())


def _seal(content: bytes) -> bytes:
    return b"sha256 " + hashlib.sha256(content).hexdigest().encode()


def read_part(part: Path) -> dict[str, float]:
    """Log-probs by reply id in a part file. Raises AloeError when the file is not as it was written.

    Parts of earlier versions have no digest behind them; of those the checksums of the archive are compared.
    """
    try:
        content = part.read_bytes()
        sealed, rest = content[: -len(_seal(b""))], content[-len(_seal(b"")) :]
        if rest == _seal(sealed):
            content = sealed
        elif not content.endswith(_END_OF_ARCHIVE, 0, -_AFTER):
            raise ValueError("its SHA-256 differs from the one behind it, or it is cut short")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if (bad := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {bad} in it differs")
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            ids, logps = stored["ids"], stored["logps"]
        if ids.ndim != 1 or ids.dtype.kind != "U" or logps.dtype != np.float32 or logps.shape != ids.shape:
            raise ValueError(f"it holds {ids.dtype} {ids.shape} and {logps.dtype} {logps.shape}")
        if not np.isfinite(logps).all():
            raise ValueError("it holds log-probs that are not finite")
        return dict(zip(ids.tolist(), logps.tolist(), strict=True))
    # An archive that is damaged makes its readers raise whatever they come upon.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise AloeError(
            f"{part}: not as this program wrote it ({reason}); delete it, and its log-probs are computed again"
        ) from None


def _publish(partial: Path, part: Path) -> bool:
    """Give a finished file its name; False where another run has taken that name."""
    try:
        os.link(partial, part)  # unlike a rename it fails where the name is taken
    except FileExistsError:
        return False
    except OSError:  # a file system without links, such as a mounted bucket
        if part.exists():
            return False
        os.replace(partial, part)
        return True
    partial.unlink()
    return True


def _subset(rows: Rows, index: list[int]) -> Rows:
    arrays = {name: value[index] for name, value in vars(rows).items() if isinstance(value, np.ndarray)}
    return replace(
        rows,
        **arrays,
        tree_ids=[rows.tree_ids[i] for i in index],
        reply_ids=[rows.reply_ids[i] for i in index],
    )
