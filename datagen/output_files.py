"""Files and directories that are replaced when they are complete: by one process at a time, whatever way it ends."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from aloe_jax.errors import AloeError
from aloe_jax.storage.disk import refusals, refused
from aloe_jax.storage.locks import locked


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A file to fill, which then replaces `path`; what was there stays until it does.

    Raises AloeError when another process is writing `path`, and when the disk refuses.
    """
    if path.is_dir():
        raise AloeError(f"{path}: is a directory; give the name of the file to write")
    with alone(path, "writing"), refusals(path):
        # Of a fixed name: what a killed process leaves is written over by the next.
        partial = path.with_name(f".{path.name}.partial")
        try:
            yield partial
            os.replace(partial, path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(path: Path, doing: str) -> Iterator[None]:
    """Be the only process that is `doing` a path. Raises AloeError when another is, and when the disk refuses."""
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not os.access(above, os.W_OK):
        refusal = errno.EROFS if os.statvfs(above).f_flag & os.ST_RDONLY else errno.EACCES
        raise refused(path, OSError(refusal, os.strerror(refusal)))
    with locked(path, doing, remove=True):
        yield
