"""Digests of files, stored when they are written and compared when they are read: no damage goes unnoticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aloe_jax.checksums import crc32_of
from aloe_jax.errors import AloeError
from aloe_jax.files import as_path, write_atomically

DIGESTS = "digests.json"  # beside the files it covers: {name from there: {"bytes": n, "sha256": hex}}
# Of large files that were summed while they were written it is "crc32": as good against damage, and costs nothing.
KIND = "#kind"  # in it, where `record` was given one: what the directory is
_PIECE = 1 << 22  # bytes read at a time
CRC = "crc32"
_THREADS = 4  # hashing leaves Python's lock, so files are hashed side by side


def digest_file(file: str | Path) -> str:
    """SHA-256 of a file's content, in hex."""
    found = hashlib.sha256()
    with as_path(file).open("rb") as stream:
        while piece := stream.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


def digest_files(root: Path, names: Iterable[str]) -> dict[str, dict[str, int | str]]:
    """Size in bytes and SHA-256 of files below `root`, by their names from there."""

    def one(name: str) -> dict[str, int | str]:
        return {"bytes": (root / name).stat().st_size, "sha256": digest_file(root / name)}

    wanted = sorted(names)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(wanted, pool.map(one, wanted), strict=True))


def record(
    directory: Path,
    covered: Callable[[str], bool] = lambda name: True,
    kind: str = "",
    sums: Mapping[str, int] | None = None,
) -> None:
    """Write DIGESTS over all files below a directory whose names from there are `covered`, and what `kind` it is.

    `sums` are the CRC-32 of files of which they are known, which are then not read.
    """
    names = {file.relative_to(directory).as_posix() for file in directory.rglob("*") if file.is_file()} - {DIGESTS}
    known = {name: sums[name] for name in sorted(names & (sums or {}).keys()) if covered(name)} if sums else {}
    found = digest_files(directory, [name for name in names - known.keys() if covered(name)])
    for name, crc in known.items():
        found[name] = {"bytes": (directory / name).stat().st_size, CRC: f"{crc:08x}"}
    values = {KIND: kind, **found} if kind else found
    write_atomically(directory / DIGESTS, json.dumps(values, indent=1) + "\n")


def recorded(directory: Path) -> tuple[str, dict[str, tuple[int, str]]]:
    """What DIGESTS says: the directory's kind ("": none), and size and digest of every file by its name from there.

    Raises OSError or ValueError where it is not there or not what `record` wrote.
    """
    values = json.loads((directory / DIGESTS).read_bytes())
    try:
        kind = values.pop(KIND, "")
        files = {
            str(name): (int(value["bytes"]), str(value["sha256" if CRC not in value else CRC]))
            for name, value in values.items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a list of digests: {error!r}") from None
    if not isinstance(kind, str):
        raise ValueError(f"not a list of digests: {KIND} is {kind!r}")
    return kind, files


def damage(directory: Path, covered: Callable[[str], bool] = lambda name: True) -> str | None:
    """What is damaged among the files that DIGESTS covers, in one line; None where nothing is, or nothing was recorded.

    Without a DIGESTS file nothing is known, as of what an earlier version wrote; `covered` chooses among its names.
    """
    file = directory / DIGESTS
    if not file.exists():
        return None
    try:
        listed = recorded(directory)[1]
    except (OSError, ValueError) as error:
        return f"{file} cannot be read ({error})"
    if not listed:
        return f"{file} cannot be read (it lists no files)"
    expected = {name: value for name, value in listed.items() if covered(name)}
    try:
        return next(
            (found for name, (size, _) in expected.items() if (found := _sized(directory, name, size))), None
        ) or (_changed(directory, {name: sha256 for name, (_, sha256) in expected.items()}))
    except OSError as error:
        return f"{error.filename or directory} cannot be read ({error.strerror})"


def _sized(directory: Path, name: str, size: int) -> str | None:
    """What is wrong with a file as far as it shows without reading it."""
    path = directory / name
    if Path(name).is_absolute() or ".." in Path(name).parts:  # a link is followed: caches are made of them
        return f"{directory / DIGESTS} names {name}, which is outside of its directory"
    if not path.is_file():
        return f"{path} is missing"
    if (found := path.stat().st_size) != size:
        return f"{path} has {found:,} bytes, {size:,} were written"
    return None


def _changed(directory: Path, expected: dict[str, str]) -> str | None:
    def one(name: str) -> bool:
        digest = expected[name]
        if len(digest) == 8:
            return f"{crc32_of(directory / name):08x}" == digest
        return digest_file(directory / name) == digest

    with ThreadPoolExecutor(_THREADS) as pool:
        for name, same in zip(expected, pool.map(one, expected), strict=True):
            if not same:
                what = "CRC-32" if len(expected[name]) == 8 else "SHA-256"
                return f"{directory / name} is not as it was written (its {what} differs)"
    return None


def check(directory: Path, advice: str, covered: Callable[[str], bool] = lambda name: True) -> None:
    """Raise AloeError with what is damaged and `advice` where a file is not as it was when DIGESTS was written."""
    found = damage(directory, covered)
    if found is not None:
        raise AloeError(f"{found}: {advice}")
