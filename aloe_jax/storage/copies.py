"""Copies between a bucket and the disk: of what a library must open itself, and of directories that are written whole.

fsspec's own file cache would not do: it has files one by one under names of its own, without their directories, and
neither looks for room on the disk first nor refuses names that lead out of the copy.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from aloe_jax.errors import AloeError
from aloe_jax.faults import one_line
from aloe_jax.storage.files import Store, as_path, bucket_errors, is_remote, store_of, sync, write_atomically
from aloe_jax.storage.scratch import scratch

OTHER_WEIGHTS = (".bin", ".pth", ".pt", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf")
WEIGHTS = (".safetensors", *OTHER_WEIGHTS)  # large files of a model directory
Versions = Mapping[str, tuple[int, str]]  # of objects by name: size in bytes, and what changes with the content


def objects(path: str | Path) -> dict[str, dict[str, str]]:
    """What a bucket knows of every object below a path, by its name from there."""
    store, root = store_of(path)
    with bucket_errors(path, "read"):
        found = store.find(root, detail=True)
    return {name.removeprefix(f"{root}/"): info for name, info in found.items() if name.startswith(f"{root}/")}


def versions(path: str | Path) -> dict[str, tuple[int, str]]:
    """Of every object below a path in a bucket, by its name from there: size in bytes, and what changes with it."""
    below = objects(path)
    names = _without_markers({name: int(info["size"]) for name, info in below.items()})
    return {name: (int(below[name]["size"]), str(below[name]["generation"])) for name in sorted(names)}


def local_copy(path: str | Path, leave: tuple[str, ...] = ()) -> Path:
    """The path itself where it is local, else a copy on the disk: of a directory, or of a file and its siblings.

    (NAME.validation.jsonl is a sibling of NAME.jsonl.) Objects whose names end as `leave` says are not copied: weights
    where sizes are asked for. Copies are stored under ~/.cache/aloe-jax/files, and renewed when an object has changed.
    Where there is nothing to copy, the path in the bucket is given back. Raises AloeError when the disk has no room.
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
    target = base / digest / path.parent.name
    with (base / f"{digest}.lock").open("w") as lock:  # several processes of one machine want the same files
        fcntl.flock(lock, fcntl.LOCK_EX)
        note = base / digest / "copied.json"
        if not _is_copied(note, wanted, target):
            note.unlink(missing_ok=True)  # first: a copy without it counts for nothing
            shutil.rmtree(base / digest, ignore_errors=True)
            try:
                download(path.parent, wanted, target)
            except BaseException:
                shutil.rmtree(base / digest, ignore_errors=True)  # a disk that was full has its room back
                raise
            write_atomically(note, json.dumps(wanted))
    return target / path.name


def cache_directory() -> Path:
    """~/.cache/aloe-jax, or below XDG_CACHE_HOME. Raises AloeError where the user has no home directory."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aloe-jax"
    except RuntimeError:
        raise AloeError("this user has no home directory; set HOME, or XDG_CACHE_HOME to where caches may be") from None


def _is_copied(note: Path, wanted: Versions, target: Path) -> bool:
    """Whether the copy was finished, is of these objects, and has its sizes still."""
    try:
        before = json.loads(note.read_bytes())
        return before == json.loads(json.dumps(wanted)) and all(
            (target / name).stat().st_size == size for name, (size, _) in wanted.items()
        )
    except (OSError, ValueError):
        return False


def _without_copies(found: Versions) -> Versions:
    """Model directories often hold their weights several times over; beside safetensors the rest is not read."""
    if not any(name.endswith(".safetensors") for name in found):
        return found
    return {name: version for name, version in found.items() if not name.endswith(OTHER_WEIGHTS)}


def download(root: Path, wanted: Versions, target: Path) -> None:
    """Copy the objects `wanted` below `root` into a new directory, and nowhere else.

    Raises AloeError when the disk has no room, and for an object whose name is not that of a file below it.
    """
    names = _as_files(root, wanted)
    needed = sum(size for size, _ in wanted.values())
    target.mkdir(parents=True)
    if (free := shutil.disk_usage(target).free) < needed:
        raise AloeError(
            f"{root}: a copy takes {needed / 2**20:,.1f} MiB and {free / 2**20:,.1f} MiB are free in {target}; "
            "set XDG_CACHE_HOME to a directory on a larger disk"
        )
    store, source = store_of(root)
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
    with bucket_errors(root, "copied"):
        store.get([f"{source}/{name}" for name in names], [str(target / name) for name in names])
    for name, (size, _) in wanted.items():
        with (target / name).open("rb") as copied:
            if os.fstat(copied.fileno()).st_size != size:
                raise AloeError(f"{root}/{name}: changed while it was copied; run the same command again")
            sync(copied.fileno())


@contextlib.contextmanager
def uploading(path: Path, last: str = "") -> Iterator[Path]:
    """A directory to fill instead of `path`: `path` itself where it is local, else one that is copied there.

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
        with bucket_errors(path, "written"):
            gone = [last] if last in before else []
            gone += [name for name in before if name not in names and name != last]
            for name in gone:
                store.rm_file(f"{root}/{name}")
            send(store, local, root, [name for name in names if name != last])
            send(store, local, root, [name for name in names if name == last])


def send(store: Store, local: Path, root: str, names: list[str]) -> None:
    """Copy files of a local directory to the names below `root`."""
    if names:
        store.put([str(local / name) for name in names], [f"{root}/{name}" for name in names])


# ---------------------------------------------------------------- names of objects, which may hold anything


def _as_files(root: object, names: Iterable[str]) -> list[str]:
    """The names, from `root`, if every one is that of a file below it: nothing is written elsewhere or twice.

    Raises AloeError naming the first that is none: with an empty part, `.` or `..` in it, with a backslash or a NUL,
    or the name of a directory that another one needs.
    """
    found = list(names)
    for name in found:
        why = _unfit(name)
        if why is not None:
            raise AloeError(f"{root}: holds an object named {one_line(name)!r}, {why}; rename or remove it")
    files = set(found)
    for name in found:
        parts = name.split("/")
        for count in range(1, len(parts)):
            if (above := "/".join(parts[:count])) in files:
                raise AloeError(
                    f"{root}: holds the objects {above!r} and {one_line(name)!r}, of which a disk can have one only; "
                    "rename or remove one of them"
                )
    return found


def _without_markers(sizes: Mapping[str, int]) -> list[str]:
    """The names without the empty objects that consoles make to show a directory: `models/` of 0 bytes."""
    return [name for name, size in sizes.items() if size or not (name == "" or name.endswith("/"))]


def _unfit(name: str) -> str | None:
    parts = name.split("/")
    faults = {
        "which holds a NUL character": "\0" in name,
        "which holds a backslash, on some machines a way to another directory": "\\" in name,
        "which leads out of the directory": ".." in parts or "." in parts,
        "which begins or ends with a slash, or has two in a row": "" in parts,
        "which is longer than a file's name may be": any(len(part.encode(errors="replace")) > 255 for part in parts),
    }
    return next((fault for fault, found in faults.items() if found), None)
