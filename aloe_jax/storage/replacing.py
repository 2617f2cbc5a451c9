"""Replace a directory by a new one: only what is recognised as our own, and the old or the new is whole at any moment.

The new directory is filled beside the old one, under a name that starts with a dot, and the two are exchanged. Every
directory written so holds digests.json: its kind, and all its files with their digests. What a killed process left
beside it is removed by the next command that writes the same directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aloe_jax.errors import AloeError
from aloe_jax.storage import integrity
from aloe_jax.storage.copies import uploading, versions
from aloe_jax.storage.files import as_path, is_remote, resolved
from aloe_jax.storage.locks import locked

NEW, OLD = "aloe-new", "aloe-old"  # .NAME.aloe-new and .NAME.aloe-old are beside NAME while it is replaced
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_TEXTS = (".json", ".jinja", ".md", ".txt")


@dataclass(frozen=True)
class Kind:
    """What a command writes: how it is called in its digests.json, and in messages what it is written `by`.

    Earlier versions wrote no digests.json. Their directories are recognised where every name matches one of `names`
    (regular expressions of names from the directory) and every file of `marks` holds its text.
    """

    name: str  # "model export"
    names: tuple[str, ...] = ()
    marks: tuple[tuple[str, str], ...] = ()  # (file, text in it); none: not recognised without digests.json
    by: str = "export"


@contextlib.contextmanager
def replacing(target: str | Path, kind: Kind, last: str = "") -> Iterator[Path]:
    """A directory to fill, which replaces `target` at the end; nothing changes where the block raises.

    `target` may be missing, empty, or a directory of this `kind` without added or changed files; a link
    stays one, and what it points to is replaced. In a bucket the object `last` is written last. Raises AloeError naming
    the file that is in the way, or when another process is writing there.
    """
    path = as_path(target)
    check_replaceable(path, kind)  # before anything is computed
    if is_remote(path):
        with uploading(path, last=last) as local:
            yield local
            integrity.record(local, kind=kind.name)
            check_replaceable(path, kind)
        return
    with contextlib.suppress(OSError):  # said where the lock is made
        path.parent.mkdir(parents=True, exist_ok=True)
    path = resolved(path)
    with locked(path, "writing", remove=True):
        new, old = leftovers(path)
        recover(path)
        try:
            new.mkdir()
            yield new
            integrity.record(new, kind=kind.name)
            check_replaceable(path, kind)
            _swap(new, path, old)
        except OSError as error:
            if error.filename is not None and not str(error.filename).startswith(str(new)):
                raise
            raise AloeError(f"{path}: cannot be written ({error.strerror or error})") from None
        finally:
            recover(path)


def leftovers(path: Path) -> tuple[Path, Path]:
    """Where a new directory is filled, and where an old one waits to be removed."""
    return path.with_name(f".{path.name}.{NEW}"), path.with_name(f".{path.name}.{OLD}")


def recover(path: Path) -> None:
    """Remove what a killed process left beside `path`; where it had only taken the old one away, give that back."""
    new, old = leftovers(path)
    if old.exists() and not path.exists():
        os.rename(old, path)
    for rest in (new, old):
        shutil.rmtree(rest, ignore_errors=True)


def check_replaceable(target: str | Path, kind: Kind) -> None:
    """Raise AloeError, naming a file, unless `target` is missing, empty, or wholly what we wrote as this `kind`."""
    path = as_path(target)
    if not is_remote(path):
        path = resolved(path)
        if path.name == "":
            raise AloeError(f"{path}: cannot be replaced; give a directory of its own")
        if path.exists() and not path.is_dir():
            raise AloeError(f"{path}: is a file; give another directory")
    found = _files(path)
    if not found:
        return
    if integrity.DIGESTS in found:
        _check_recorded(path, kind, found)
        return
    foreign = next((name for name in found if not any(re.fullmatch(known, name) for known in kind.names)), None)
    if foreign is not None:
        raise AloeError(f"{path}: holds {foreign}, which no {kind.by} wrote; give another directory")
    if not (kind.marks and all(_holds(path / file, text) for file, text in kind.marks)):
        raise AloeError(f"{path}: nothing in it says that aloe-jax wrote it; give another directory")


def _check_recorded(path: Path, kind: Kind, found: list[str]) -> None:
    try:
        was, files = integrity.recorded(path)
    except (OSError, ValueError) as error:
        raise AloeError(f"{path / integrity.DIGESTS}: cannot be read ({error}); give another directory") from None
    if was != kind.name:
        what = f"has an earlier {was} in it" if was else f"holds {found[0]}"
        raise AloeError(f"{path}: {what}, which no {kind.by} wrote; give another directory")
    for name in found:
        if name != integrity.DIGESTS and name not in files:
            raise AloeError(f"{path}: holds {name}, which no {kind.by} wrote; give another directory")
    for name, (_, digest) in files.items():
        # A text that a person has edited is theirs. Weights that differ are damaged: to write them again mends that.
        if name in found and name.endswith(_TEXTS) and not integrity.is_as_recorded(path / name, digest):
            raise AloeError(
                f"{path}: {name} was changed after it was written; move the directory away, or give another one"
            )


def _files(path: Path) -> list[str]:
    """Names from there of all files below a directory, and of links and empty directories, sorted."""
    if is_remote(path):
        return list(versions(path))
    names: list[str] = []
    for root, directories, files in os.walk(path):
        where = Path(root).relative_to(path)
        links = [name for name in directories if (Path(root) / name).is_symlink()]
        names += [(where / name).as_posix() for name in (*files, *links)]
        if not (files or directories or Path(root) == path):
            names.append(where.as_posix())
    return sorted(names)


def _holds(file: Path, text: str) -> bool:
    try:
        return text in file.read_text()
    except (OSError, ValueError):
        return False


def _swap(new: Path, path: Path, old: Path) -> None:
    """Give `new` the name `path`; what had it is then under one of the other two names."""
    if not path.exists():
        os.rename(new, path)
    elif not exchange(new, path):
        os.rename(path, old)  # killed between these two, the next command gives it back (`recover`)
        os.rename(new, path)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step. False where the system or its disk cannot; then nothing has changed."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    current = -100  # AT_FDCWD
    if rename(current, os.fsencode(one), current, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number), str(other))
