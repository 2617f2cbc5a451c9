"""Directories for files that are only on their way: gone when the block ends, and after a kill with the next one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "aloe-scratch-"
_LOCK = ".in-use"  # locked by the process that made the directory, as long as it lives


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """An empty directory below the system's directory for temporary files (TMPDIR), until the block ends.

    What killed processes of this user left there is removed first. Raises OSError when none can be made.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            _remove_unused(left)
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as made:
        lock = os.open(Path(made) / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with contextlib.suppress(OSError):  # without locks, no other process removes it
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            inner = Path(made) / "files"
            inner.mkdir()
            yield inner
        finally:
            os.close(lock)


def _remove_unused(left: Path) -> None:
    """Remove a directory whose lock is free. One without a lock is just being made."""
    if left.stat().st_uid != os.getuid() or not (left / "files").is_dir():
        return
    lock = os.open(left / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(left, ignore_errors=True)
    finally:
        os.close(lock)
