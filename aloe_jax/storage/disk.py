"""What a disk refuses, in one line."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from aloe_jax.errors import AloeError

FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
REFUSES = FULL | {errno.EFBIG, errno.EIO, errno.EROFS}  # it takes nothing more, whatever is written
# Libraries in Rust and C++ have exceptions of their own for what the system says.
_NUMBER = re.compile(r"\(os error (\d+)\)")
_WORDS = {
    "no space left on device": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "file too large": errno.EFBIG,
    "read-only file system": errno.EROFS,
}


class DiskError(AloeError, OSError):
    """A disk is full, read-only or out of reach."""


def of_the_system(error: BaseException) -> OSError | None:
    """The refusal of the operating system that an exception stands for, whichever library raised it; None: none."""
    if isinstance(error, OSError):
        return error
    text = str(error)
    numbered = _NUMBER.search(text)
    number = int(numbered[1]) if numbered else next((n for words, n in _WORDS.items() if words in text.lower()), None)
    return None if number is None else OSError(number, os.strerror(number))


def is_full(error: BaseException, signs: Sequence[str] = ()) -> bool:
    """Whether an exception comes from a disk that takes no more; `signs` are further words that say so."""
    known = of_the_system(error)
    return (known is not None and known.errno in REFUSES) or any(sign in str(error).lower() for sign in signs)


@contextlib.contextmanager
def as_os_error() -> Iterator[None]:
    """Turn what other libraries raise where the system refuses a file into an OSError, as for every other file."""
    try:
        yield
    except AloeError:
        raise
    except Exception as error:
        known = of_the_system(error)
        if known is None or known is error:
            raise
        raise known from None


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
        **dict.fromkeys(FULL, "free some space and run again"),
        errno.EROFS: "give a path on a disk that may be written",
        errno.EACCES: "give a path that may be written",
        errno.EPERM: "give a path that may be written",
    }.get(error.errno or 0, "give another path")
    return DiskError(f"{path}: cannot be written ({error.strerror or error}); {advice}")
