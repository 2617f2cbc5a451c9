"""What a disk refuses, in one line."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from aloe_jax.errors import AloeError


class DiskError(AloeError, OSError):
    """A disk is full, read-only or out of reach."""


@contextlib.contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Turn what a disk refuses, and a text that no file can hold, into one line that names `path`."""
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
