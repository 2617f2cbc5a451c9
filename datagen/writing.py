"""Files and directories that are replaced when they are complete: by one process at a time, whatever way it ends."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from aloe_jax.errors import AloeError
from aloe_jax.locks import locked


class DiskError(AloeError, OSError):
    """A disk is full, read-only or out of reach."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to fill, which then takes the place of `path`; what was there stays until it does.

    Raises AloeError when another process is writing `path`, and when the disk refuses.
    """
    if path.is_dir():
        raise AloeError(f"{path}: is a directory; give the name of the file to write")
    with refusals(path), locked(path, "writing", remove=True):
        # Of a fixed name: what a killed process leaves is written over by the next.
        partial = path.with_name(f".{path.name}.partial")
        try:
            yield partial
            os.replace(partial, path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


@contextlib.contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Turn a disk that is full, read-only or out of reach into one line that names `path`."""
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        raise refused(path, error) from None
    except UnicodeEncodeError:
        raise AloeError(
            f"{path}: not written: a text has half a character (a lone surrogate such as \\ud83d), which no file can "
            "hold; mend it in the source"
        ) from None


def refused(path: Path, error: OSError) -> DiskError:
    """The error for a path that cannot be written."""
    advice = {
        errno.ENOSPC: "free some space and run again",
        errno.EDQUOT: "free some space and run again",
        errno.EROFS: "give a path on a disk that may be written",
        errno.EACCES: "give a path that may be written",
        errno.EPERM: "give a path that may be written",
    }.get(error.errno or 0, "give another path")
    return DiskError(f"{path}: cannot be written ({error.strerror or error}); {advice}")
