"""Records of JSON files: an object a line, or one array of objects, with errors that name file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from aloe_jax.conversation import shown
from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON

LINE = 1 << 30  # bytes that one line may have, and a file that is one array
DIGITS = 4000  # that a whole number may have
# Keys under which some tools put all records of a file.
WRAPPERS = ("data", "train", "records", "rows", "examples", "instances")
# How files of other kinds begin, and what to do with them.
OTHERS = {
    b"\x1f\x8b": "is compressed with gzip; unpack it (gunzip)",
    b"BZh": "is compressed with bzip2; unpack it (bunzip2)",
    b"\xfd7zXZ\x00": "is compressed with xz; unpack it (unxz)",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it (unzstd)",
    b"PK\x03\x04": "is a zip file; unpack it (unzip)",
    b"PAR1": "is a Parquet file; write its rows as JSONL",
    b"ARROW1": "is an Arrow file; write its rows as JSONL",
    b"SQLite format 3": "is an SQLite database; write its rows as JSONL",
    b"\xff\xfe\x00\x00": "not UTF-8 text but UTF-32; save it as UTF-8",
    b"\x00\x00\xfe\xff": "not UTF-8 text but UTF-32; save it as UTF-8",
    b"\xff\xfe": "not UTF-8 text but UTF-16; save it as UTF-8",
    b"\xfe\xff": "not UTF-8 text but UTF-16; save it as UTF-8",
}
MARK = b"\xef\xbb\xbf"  # a byte-order mark, as some editors write it, is no part of the first record


def json_records(path: Path, limit: int | None = None) -> Iterator[tuple[str, dict[str, JSON]]]:
    """Yield (file and line or record, object), at most `limit` of them.

    A file may be one JSON array of objects, or an object with such an array under `data`. Raises AloeError naming the
    file and the line of what cannot be read, has a key twice, or is no object.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
            for start, what in OTHERS.items():
                if head.startswith(start):
                    raise AloeError(f"{path}: {what}")
            stream.seek(len(MARK) if head.startswith(MARK) else 0)
            yield from _records(path, stream, head.removeprefix(MARK), limit)
    except OSError as error:
        raise AloeError(f"{path}: cannot be read ({error.strerror or error})") from None


def _records(path: Path, stream: BinaryIO, head: bytes, limit: int | None) -> Iterator[tuple[str, dict[str, JSON]]]:
    start = stream.tell()
    if head.lstrip()[:1] == b"[":
        data = stream.read(LINE)
        if stream.read(1):
            raise AloeError(f"{path}: is one JSON array of more than {LINE >> 30} GiB; give one record a line")
        found = _parsed(data, str(path))
        assert isinstance(found, list)  # it begins with a bracket
        yield from _numbered(path, found, limit)
        return
    count = 0
    for number, line in _lines(path, stream):
        if count == limit:
            return
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            record = _parsed(line, where)
        except AloeError:
            if count or not line.lstrip().startswith(b"{"):
                raise
            # Perhaps one object over several lines.
            stream.seek(start)
            whole = stream.read(LINE)
            if stream.read(1):
                raise
            try:
                record = _parsed(whole, str(path))
            except AloeError:
                record = None
            if record is None:
                raise
            yield from _unwrapped(path, record, where, limit)
            return
        if not isinstance(record, dict):
            raise AloeError(f"{where}: expected a JSON object, found {type(record).__name__}")
        if not count and _wrapper(record) is not None:
            rest = (line for _, line in _lines(path, stream))
            if not any(line.strip() for line in rest):
                yield from _unwrapped(path, record, where, limit)
                return
            raise AloeError(f"{where}: holds a list of records, and more lines follow; give one record a line")
        count += 1
        yield where, record


def _lines(path: Path, stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Every line with its number from 1; lines end with any of the three ends of line."""
    number = 0
    while read := stream.readline(LINE):
        if len(read) == LINE:
            raise AloeError(f"{path} line {number + 1}: is longer than {LINE >> 30} GiB; give one record a line")
        for line in read.splitlines():
            number += 1
            yield number, line


def _wrapper(record: dict[str, JSON]) -> list[JSON] | None:
    """The records in an object that holds nothing else but them, and words about them."""
    lists = [name for name, value in record.items() if isinstance(value, list)]
    if len(lists) != 1 or lists[0] not in WRAPPERS or any(isinstance(value, dict) for value in record.values()):
        return None
    found = record[lists[0]]
    return found if isinstance(found, list) else None


def _unwrapped(path: Path, record: JSON, where: str, limit: int | None) -> Iterator[tuple[str, dict[str, JSON]]]:
    if not isinstance(record, dict):
        raise AloeError(f"{where}: expected a JSON object, found {type(record).__name__}")
    inside = _wrapper(record)
    yield from _numbered(path, [record] if inside is None else inside, limit)


def _numbered(path: Path, records: list[JSON], limit: int | None) -> Iterator[tuple[str, dict[str, JSON]]]:
    for number, record in enumerate(records[:limit], 1):
        if not isinstance(record, dict):
            raise AloeError(f"{path} record {number}: expected a JSON object, found {type(record).__name__}")
        yield f"{path} record {number}", record


def _parsed(data: bytes, where: str) -> JSON:
    """The value of JSON text. Raises AloeError that begins with `where`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise AloeError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno} " if error.lineno > 1 else ""
        raise AloeError(
            f"{where}: not valid JSON ({error.msg} at {line}column {error.colno}); mend or remove the line"
        ) from None
    except RecursionError:
        raise AloeError(f"{where}: not valid JSON (nested too deeply); mend or remove the line") from None
    except ValueError as error:
        raise AloeError(f"{where}: {error}; mend or remove the line") from None


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has the field {shown(twice)} twice")
    return found


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"has a number of {len(text):,} digits")
    return int(text)
