"""Digests of files, stored when they are written and compared when they are read: no damage goes unnoticed."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aloe_jax.errors import AloeError
from aloe_jax.storage.files import as_path, write_atomically

DIGESTS = "digests.json"  # beside the files it covers: {name from there: {"bytes": n, "checksum": hex}}
# Instead of "checksum", earlier versions wrote "sha256" of all, and for weights zlib's "crc32".
KIND = "#kind"  # in it, where `record` was given one: what the directory is
_PIECE = 1 << 20  # bytes read at a time: what a core's cache holds is summed for half the cost of 4 MiB
# Bytes of a file's end that go through SHA-256. Earlier versions took all of the last piece, under the same name.
_END, _EARLIER_END = 1 << 16, _PIECE
_THREADS = min(4, os.cpu_count() or 1)  # summing leaves Python's lock, so files are summed side by side


def everything(name: str) -> bool:
    """Covers any file of a directory."""
    return True


def digest_file(file: str | Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with as_path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checksum(file: Path, end: int = _END) -> str:
    """SHA-256, in 32 hex digits, of a file's end (up to `end` bytes) after the CRC-32C of all before it.

    Against damage, not forgery, at the speed of memory. CRC-32C alone would not do: of any content that ends with its
    own CRC-32C, as OCDBT's manifests do, it is one constant.
    """
    import google_crc32c

    before, last = 0, b""
    with as_path(file).open("rb") as stream:
        while piece := stream.read(_PIECE):
            before, last = google_crc32c.extend(before, last), piece
    before = google_crc32c.extend(before, last[:-end])
    return hashlib.sha256(before.to_bytes(4, "big") + last[-end:]).hexdigest()[:32]


def checksums(root: Path, names: Iterable[str]) -> dict[str, dict[str, int | str]]:
    """Size in bytes and checksum of files below `root`, by their names from there."""

    def one(name: str) -> dict[str, int | str]:
        return {"bytes": (root / name).stat().st_size, "checksum": checksum(root / name)}

    wanted = sorted(names)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(wanted, pool.map(one, wanted), strict=True))


def record(directory: Path, covered: Callable[[str], bool] = everything, kind: str = "") -> None:
    """Write DIGESTS over all files below a directory whose names from there are `covered`, and what `kind` it is."""
    names = {file.relative_to(directory).as_posix() for file in directory.rglob("*") if file.is_file()} - {DIGESTS}
    found = checksums(directory, [name for name in names if covered(name)])
    values = {KIND: kind, **found} if kind else found
    write_atomically(directory / DIGESTS, json.dumps(values, indent=1) + "\n")


def recorded(directory: Path) -> tuple[str, dict[str, tuple[int, str]]]:
    """What DIGESTS says: the directory's kind ("": none), and size and digest of every file by its name from there.

    A digest is for `is_as_recorded`. Raises OSError or ValueError where it is not there or not what `record` wrote.
    """
    values = json.loads((directory / DIGESTS).read_bytes())
    try:
        kind = values.pop(KIND, "")
        files = {str(name): (int(value["bytes"]), _digest(value)) for name, value in values.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a list of digests: {error!r}") from None
    if not isinstance(kind, str):
        raise ValueError(f"not a list of digests: {KIND} is {kind!r}")
    return kind, files


def _digest(value: Mapping[str, object]) -> str:
    """The kind of a digest, a colon, and the digest. Raises KeyError where there is none of a known kind."""
    kind = next((kind for kind in _KINDS if kind in value), "checksum")
    return f"{kind}:{value[kind]}"


def _crc32(file: Path) -> str:
    found = 0
    with as_path(file).open("rb") as stream:
        while piece := stream.read(_PIECE):
            found = zlib.crc32(piece, found)
    return f"{found:08x}"


_KINDS: Mapping[str, tuple[str, Callable[[Path], str]]] = {
    "checksum": ("checksum", checksum),
    "sha256": ("SHA-256", digest_file),
    "crc32": ("CRC-32", _crc32),
}


def is_as_recorded(file: Path, digest: str) -> bool:
    """Whether a file's content is what it was when `digest`, one of `recorded`, was written."""
    kind, _, expected = digest.partition(":")
    if _KINDS[kind][1](file) == expected:
        return True
    return kind == "checksum" and checksum(file, _EARLIER_END) == expected


def damage(directory: Path, covered: Callable[[str], bool] = everything) -> str | None:
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
        ) or (_changed(directory, {name: digest for name, (_, digest) in expected.items()}))
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
    with ThreadPoolExecutor(_THREADS) as pool:
        same = pool.map(lambda name: is_as_recorded(directory / name, expected[name]), expected)
        for name, unchanged in zip(expected, same, strict=True):
            if not unchanged:
                kind, _ = _KINDS[expected[name].partition(":")[0]]
                return f"{directory / name} is not as it was written (its {kind} differs)"
    return None


def check(directory: Path, advice: str, covered: Callable[[str], bool] = everything) -> None:
    """Raise AloeError with what is damaged and `advice` where a file is not as it was when DIGESTS was written."""
    found = damage(directory, covered)
    if found is not None:
        raise AloeError(f"{found}: {advice}")
