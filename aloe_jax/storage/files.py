"""Paths on a disk and in a bucket (gs://...), behind one set of calls.

A local path is pathlib's. A path in a bucket is that of etils, through gcsfs, with the same methods. An object store
has no directories, no renaming, no appending and no links, but an object is there whole or not at all. So in a bucket a
file is written as it is (`write_atomically`); of a directory that belongs together one object is written last and tells
that it is whole (`uploading`); files that grow are kept on the disk and copied there now and then (mirror.py); and what
a library must map or open itself is read from a copy on the disk (`here`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, cast

from aloe_jax.errors import AloeError
from aloe_jax.storage.disk import REFUSES
from aloe_jax.storage.object_names import as_files, without_markers
from aloe_jax.storage.scratch import scratch

BUCKET = "gs://"
PARTIAL = ".partial"  # how the name of a file ends that is not whole yet
LEFTOVER_SECONDS = 3600.0
OTHER_WEIGHTS = (".bin", ".pth", ".pt", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf")
WEIGHTS = (".safetensors", *OTHER_WEIGHTS)  # large files of a model directory


def is_remote(path: str | Path) -> bool:
    """Whether a path is in a bucket. Raises AloeError for a place that is neither there nor on a disk."""
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

    # pathlib makes one slash of two.
    return cast(Path, epath.Path(re.sub(r"^gs:/+", BUCKET, os.fspath(path))))


def absolute(path: str | Path) -> Path:
    """The path from the root of its disk; a path in a bucket is that already."""
    return as_path(path) if is_remote(path) else Path(path).absolute()


def resolved(path: str | Path) -> Path:
    """The absolute path without links: the same for the same place."""
    return as_path(path) if is_remote(path) else Path(path).resolve()


def exists(path: str | Path) -> bool:
    """Whether there is a file or a directory. Raises AloeError when a bucket cannot be asked."""
    with told(path, "read"):
        return as_path(path).exists()


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
        with told(path, "written"):
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
        _write_new(partial, data, path)
        os.replace(partial, path)
        _sync(path.parent)
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


def _write_new(partial: Path, data: bytes, target: Path) -> None:
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    with open(descriptor, "wb") as stream:
        with contextlib.suppress(FileNotFoundError):  # what only its owner may read stays so
            os.fchmod(descriptor, target.stat().st_mode & 0o777)
        stream.write(data)
        stream.flush()
        _sync_descriptor(descriptor)


def _remove_leftovers(directory: Path) -> None:
    """Remove what a killed `write_atomically` left: nobody takes hours to write a file that is in memory."""
    with os.scandir(directory) as found:
        old = [one for one in found if one.name.startswith(".aloe-") and one.name.endswith(PARTIAL)]
    for one in old:
        with contextlib.suppress(OSError):
            if one.stat(follow_symlinks=False).st_mtime < time.time() - LEFTOVER_SECONDS:
                os.unlink(one.path)


def _sync(directory: Path) -> None:
    """Have the directory itself written: that a file has its name."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def _sync_descriptor(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # some file systems have no such call
            raise


def versions(path: str | Path) -> dict[str, tuple[int, str]]:
    """Of every object below a path in a bucket, by its name from there: size in bytes, and what changes with it."""
    store, root = store_of(path)
    with told(path, "read"):
        found = store.find(root, detail=True)
    below = {name.removeprefix(f"{root}/"): info for name, info in found.items() if name.startswith(f"{root}/")}
    names = without_markers({name: int(info["size"]) for name, info in below.items()})
    return {name: (int(below[name]["size"]), str(below[name]["generation"])) for name in sorted(names)}


# ---------------------------------------------------------------- reading what a library must open itself


def here(path: str | Path, leave: tuple[str, ...] = ()) -> Path:
    """The path itself where it is local, else a copy on the disk: of a directory, or of a file and its siblings.

    (NAME.validation.jsonl is a sibling of NAME.jsonl.) Objects whose names end as `leave` says are not copied: weights
    where sizes are asked for. Copies lie under ~/.cache/aloe-jax/files, are made once, and again when an object has
    changed. Where there is nothing to copy, the path in the bucket is given back. Raises AloeError when the disk has
    no room.
    """
    if not is_remote(path):
        return Path(path)
    path = as_path(path)
    wanted = {f"{path.name}/{name}": version for name, version in _without_copies(versions(path)).items()}
    if not wanted:
        wanted = {
            name: version
            for name, version in versions(path.parent).items()
            if name.startswith(path.stem) and name.endswith(path.suffix) and "/" not in name
        }
        if path.name not in wanted:
            return path
    wanted = {name: version for name, version in wanted.items() if not name.endswith(leave)}
    digest = hashlib.sha256(" without ".join([str(path), *leave]).encode()).hexdigest()[:16]
    base = cache_directory() / "files"
    base.mkdir(parents=True, exist_ok=True)
    place = base / digest / path.parent.name
    with (base / f"{digest}.lock").open("w") as lock:  # several processes of one machine want the same files
        fcntl.flock(lock, fcntl.LOCK_EX)
        note = base / digest / "copied.json"
        if not _is_copied(note, wanted, place):
            note.unlink(missing_ok=True)  # first: a copy without it counts for nothing
            shutil.rmtree(base / digest, ignore_errors=True)
            try:
                download(path.parent, wanted, place)
            except BaseException:
                shutil.rmtree(base / digest, ignore_errors=True)  # a disk that was full has its room back
                raise
            write_atomically(note, json.dumps(wanted))
    return place / path.name


def cache_directory() -> Path:
    """~/.cache/aloe-jax, or below XDG_CACHE_HOME. Raises AloeError where the user has no home directory."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aloe-jax"
    except RuntimeError:
        raise AloeError("this user has no home directory; set HOME, or XDG_CACHE_HOME to where caches may be") from None


def _is_copied(note: Path, wanted: Mapping[str, tuple[int, str]], place: Path) -> bool:
    """Whether the copy was finished, is of these objects, and has its sizes still."""
    try:
        before = json.loads(note.read_bytes())
        return before == json.loads(json.dumps(wanted)) and all(
            (place / name).stat().st_size == size for name, (size, _) in wanted.items()
        )
    except (OSError, ValueError):
        return False


def _without_copies(found: Mapping[str, tuple[int, str]]) -> Mapping[str, tuple[int, str]]:
    """Model directories often hold their weights several times over; beside safetensors the rest is not read."""
    if not any(name.endswith(".safetensors") for name in found):
        return found
    return {name: version for name, version in found.items() if not name.endswith(OTHER_WEIGHTS)}


def download(root: Path, wanted: Mapping[str, tuple[int, str]], place: Path) -> None:
    """Copy the objects `wanted` below `root` into a new directory, and nowhere else.

    Raises AloeError when the disk has no room, and for an object whose name is not that of a file below it.
    """
    names = as_files(root, wanted)
    needed = sum(size for size, _ in wanted.values())
    place.mkdir(parents=True)
    if (free := shutil.disk_usage(place).free) < needed:
        raise AloeError(
            f"{root}: a copy takes {needed / 2**20:,.1f} MiB and {free / 2**20:,.1f} MiB are free in {place}; "
            "set XDG_CACHE_HOME to a directory on a larger disk"
        )
    store, source = store_of(root)
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
    with told(root, "copied"):
        store.get([f"{source}/{name}" for name in names], [str(place / name) for name in names])
    for name, (size, _) in wanted.items():
        with (place / name).open("rb") as copied:
            if os.fstat(copied.fileno()).st_size != size:
                raise AloeError(f"{root}/{name}: changed while it was copied; run the same command again")
            _sync_descriptor(copied.fileno())


# ---------------------------------------------------------------- writing


@contextlib.contextmanager
def uploading(path: Path, last: str = "") -> Iterator[Path]:
    """A directory to fill in place of `path`: `path` itself where it is local, else one that is copied there.

    In a bucket what was there before is replaced; the object `last` is taken away first and written last, so that a
    directory that has it is whole.
    """
    if not is_remote(path):
        yield path
        return
    with scratch() as temporary:
        local = temporary / path.name
        local.mkdir()
        yield local
        names = sorted(file.relative_to(local).as_posix() for file in local.rglob("*") if file.is_file())
        if not names:  # another process writes
            return
        store, root = store_of(path)
        before = versions(path)
        with told(path, "written"):
            gone = [last] if last in before else []
            gone += [name for name in before if name not in names and name != last]
            for name in gone:
                store.rm_file(f"{root}/{name}")
            send(store, local, root, [name for name in names if name != last])
            send(store, local, root, [name for name in names if name == last])


def send(store: Any, local: Path, root: str, names: list[str]) -> None:
    """Copy files of a local directory to the names below `root`."""
    if names:
        store.put([str(local / name) for name in names], [f"{root}/{name}" for name in names])


# ---------------------------------------------------------------- the bucket


def _connect(path: str | Path) -> None:
    # Looking for kinds of buckets that are not needed here takes a request for every bucket, a minute where it fails.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        import fsspec
        import gcsfs  # noqa: F401
    except ImportError as error:
        raise AloeError(f"{path}: a path in a bucket needs gcsfs ({error}); run pip install 'aloe-jax[gcs]'") from None
    # A list of objects that is remembered does not show what another machine has written since.
    for protocol in ("gcs", "gs"):
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)


def store_of(path: str | Path) -> tuple[Any, str]:
    """The bucket's file system, and the path there: bucket and name, without gs://."""
    path = as_path(path)
    import fsspec

    return fsspec.filesystem("gcs"), str(PurePosixPath(str(path).removeprefix(BUCKET)))


@contextlib.contextmanager
def told(path: str | Path, done: str) -> Iterator[None]:
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
