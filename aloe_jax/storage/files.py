"""Paths on a disk and in a bucket (gs://...), behind one set of calls.

A local path is pathlib's. A path in a bucket is that of etils, through gcsfs, with the same methods. An object store
has no directories, no renaming, no appending and no links, but an object is there whole or not at all. So in a bucket a
file is written as it is (`write_atomically`); of a directory that belongs together one object is written last and shows
that it is whole, and what a library must map or open itself is read from a copy on the disk (copies.py); files that
grow are kept on the disk and copied to the bucket now and then (mirror.py).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from aloe_jax.errors import AloeError
from aloe_jax.storage.disk import REFUSES

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

type Store = AbstractFileSystem  # by a name that can be imported without fsspec
BUCKET = "gs://"
PARTIAL = ".partial"  # how the name of a file ends that is not whole yet
LEFTOVER_SECONDS = 3600.0


def is_remote(path: str | Path) -> bool:
    """Whether a path is in a bucket. Raises AloeError for one that is neither there nor on a disk."""
    text = os.fspath(path)
    scheme = re.match(r"([a-zA-Z][\w+.-]*)://?", text)
    if scheme is None or scheme[1] == "gs" or Path(text).exists():
        return text.startswith("gs:/")
    raise AloeError(f"{text}: {scheme[1]}:// is not understood; give a local path or gs://BUCKET/PATH")


def as_path(path: str | Path) -> Path:
    """A path with pathlib's methods, wherever it is.

    Raises AloeError when it is in a bucket without a name, or gcsfs is missing.
    """
    if not is_remote(path):
        return Path(path)
    if re.match(r"gs:/+[a-z0-9][a-z0-9._-]*(/|$)", os.fspath(path)) is None:
        raise AloeError(f"{path}: names no bucket; give gs://BUCKET/PATH (names of buckets are a-z, 0-9, -, _ and .)")
    _connect(path)
    from etils import epath

    found: Path = epath.Path(re.sub(r"^gs:/+", BUCKET, os.fspath(path)))  # pathlib makes one slash of two
    return found


def absolute(path: str | Path) -> Path:
    """The path from the root of its disk; a path in a bucket is that already."""
    return as_path(path) if is_remote(path) else Path(path).absolute()


def resolved(path: str | Path) -> Path:
    """The absolute path without links: the same for the same file."""
    return as_path(path) if is_remote(path) else Path(path).resolve()


def exists(path: str | Path) -> bool:
    """Whether there is a file or a directory. Raises AloeError when a bucket cannot be asked."""
    with bucket_errors(path, "read"):
        return as_path(path).exists()


def reachable(path: str | Path) -> bool:
    """The same, where a bucket that cannot be asked (no account, no network, no gcsfs) counts as one without it."""
    try:
        return exists(path)
    except AloeError:
        return False


def make_directory(path: Path) -> None:
    """Make a directory with all above it; in a bucket there is nothing to make. Raises OSError naming what is there."""
    if is_remote(path):
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # "File exists" would not say what is wrong with it
        raise NotADirectoryError(errno.ENOTDIR, "is a file, not a directory", error.filename) from None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all, whatever is killed, and also after a power cut.

    A link stays one, and what it points to is written; a device or a pipe is written to.
    Several processes that write the same file do not mix: one of them is the last. Raises OSError naming `path`, and
    AloeError when a bucket refuses, or for half a character, which is no text. (The disk is waited for: 1 to 2 ms on
    an SSD, against 0.2 without.)
    """
    try:
        data = content.encode() if isinstance(content, str) else content
    except UnicodeEncodeError as error:
        raise AloeError(
            f"{path}: cannot be written: its text holds half a character ({error.object[error.start]!a}), which "
            "some file that was read has as an escape; remove it there"
        ) from None
    if is_remote(path):
        store, name = store_of(path)
        with bucket_errors(path, "written"):
            store.pipe_file(name, data)  # through an open file a refusal would come when it is closed
        return
    target = path.resolve() if path.is_symlink() else path  # a link stays one
    if target.exists() and not target.is_file() and not target.is_dir():
        with path.open("wb") as device:  # /dev/null, /dev/stdout or a pipe: written to, and never replaced
            device.write(data)
        return
    _replace(target, data, path)


def _replace(path: Path, data: bytes, called: Path) -> None:
    partial = path.with_name(f".aloe-{secrets.token_hex(8)}{PARTIAL}")
    try:
        _remove_leftovers(path.parent)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with open(descriptor, "wb") as stream:
            with contextlib.suppress(FileNotFoundError):  # what only its owner may read stays so
                os.fchmod(descriptor, path.stat().st_mode & 0o777)
            stream.write(data)
            stream.flush()
            sync(descriptor)
        os.replace(partial, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(called)) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


@contextlib.contextmanager
def together(directory: Path) -> Iterator[None]:
    """Write files of a directory that belong together: another process that does so waits, so that no two sets mix.

    Makes the directory. The lock is on the directory itself and leaves nothing; a bucket has none.
    """
    make_directory(directory)
    if is_remote(directory):
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers(directory: Path) -> None:
    """Remove what a killed `write_atomically` left: nobody takes hours to write a file that is in memory."""
    with os.scandir(directory) as found:
        old = [one for one in found if one.name.startswith(".aloe-") and one.name.endswith(PARTIAL)]
    for one in old:
        with contextlib.suppress(OSError):
            if one.stat(follow_symlinks=False).st_mtime < time.time() - LEFTOVER_SECONDS:
                os.unlink(one.path)


def _sync_directory(directory: Path) -> None:
    """Have the directory itself written: that a file has its name."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> None:
    """Have an open file written to its disk."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # some file systems have no such call
            raise


# ---------------------------------------------------------------- the bucket


def _connect(path: str | Path) -> None:
    # Looking for kinds of buckets that we do not need takes a request for every bucket, a minute where it fails.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        import fsspec
        import gcsfs  # noqa: F401
    except ImportError as error:
        raise AloeError(f"{path}: a path in a bucket needs gcsfs ({error}); run pip install 'aloe-jax[gcs]'") from None
    # A list of objects that is remembered does not show what another machine has written since.
    for protocol in ("gcs", "gs"):
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)


def store_of(path: str | Path) -> tuple[Store, str]:
    """The bucket's file system, and the path there: bucket and name, without gs://."""
    path = as_path(path)
    import fsspec

    return fsspec.filesystem("gcs"), str(PurePosixPath(str(path).removeprefix(BUCKET)))


@contextlib.contextmanager
def bucket_errors(path: str | Path, done: str) -> Iterator[None]:
    """Turn what the bucket refuses into one line: gcsfs and google-auth raise exceptions of their own."""
    try:
        yield
    except AloeError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in {*REFUSES, errno.ENAMETOOLONG}:
            raise AloeError(f"{error.filename or path}: {error.strerror} while {path} was {done}") from None
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise AloeError(
            f"{path}: cannot be {done} ({reason}); is the bucket's name right, and may this account use it?"
        ) from None
