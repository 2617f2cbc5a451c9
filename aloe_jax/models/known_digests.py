"""SHA-256 of files that were read before: large models are not read again at every start.

A digest counts for a file as long as its path, size, times and inode are the same, as Git has it. Digests are stored in
~/.cache/aloe-jax/digests, or below XDG_CACHE_HOME.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aloe_jax.errors import AloeError
from aloe_jax.storage.copies import cache_directory
from aloe_jax.storage.files import write_atomically
from aloe_jax.storage.integrity import digest_file

SMALL = 2**20  # bytes: what is quickly read is always read
SETTLED = 3.0  # seconds since a file's last change: after that a further change shows in its times
_THREADS = 4


def digests(files: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 in hex of local files by name. Raises OSError where one cannot be read."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(files, pool.map(_digest, files.values()), strict=True))


def _digest(file: Path) -> str:
    before = _state(file)
    if before["bytes"] <= SMALL:
        return digest_file(file)
    try:
        note = _note(file)
    except AloeError:  # nowhere to remember it: a user without a home directory, as in some containers
        return digest_file(file)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(note.read_bytes())
        if known["state"] == before and re.fullmatch(r"[0-9a-f]{64}", known["sha256"]):
            return known["sha256"]
    read_at = time.time()
    found = digest_file(file)
    if _state(file) == before and read_at - max(before["changed"], before["modified"]) / 1e9 > SETTLED:
        with contextlib.suppress(OSError):  # nowhere to write: then it is read again
            note.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(note, json.dumps({"path": str(file.resolve()), "state": before, "sha256": found}) + "\n")
    return found


def _state(file: Path) -> dict[str, int]:
    stat = file.stat()
    return {
        "bytes": stat.st_size,
        "modified": stat.st_mtime_ns,
        "changed": stat.st_ctime_ns,
        "inode": stat.st_ino,
        "device": stat.st_dev,
    }


def _note(file: Path) -> Path:
    name = hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:32]
    return cache_directory() / "digests" / f"{name}.json"
