"""JSONL files: one JSON object a line, read and written as a stream, with errors that name file, line and field."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aloe_jax.conversation import HALF
from aloe_jax.data.fields import FLAGS, SYSTEM, content, is_empty, joined, system_of
from aloe_jax.data.records import json_records
from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from datagen.output_files import replacing_file


@dataclass(frozen=True)
class Record:
    """One line of a file."""

    where: str  # "FILE line N", for messages
    number: int  # of the line, from 1
    value: dict[str, JSON]


def read_records(path: Path) -> Iterator[Record]:
    """Yield the objects of a JSONL file, or of one that is a JSON array; blank lines are passed over.

    Raises AloeError when the file is missing, empty, not UTF-8, or a line is no JSON object.
    """
    found = False
    if path.is_dir():
        raise AloeError(f"{path}: is a directory; give a JSONL file")
    if not os.path.lexists(path):
        raise AloeError(f"{path}: no such file")
    for where, value in json_records(path):
        _refuse_half_characters(value, where)
        found = True
        yield Record(where, int(where.rsplit(" ", 1)[1]), value)
    if not found:
        raise AloeError(f"{path}: holds no records")


def _refuse_half_characters(value: object, where: str) -> None:
    try:
        dump(value).encode()
    except UnicodeEncodeError:
        raise AloeError(f"{where}: {HALF}") from None


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text) of the lines that are not blank. Raises AloeError as `read_records` does."""
    if path.is_dir():
        raise AloeError(f"{path}: is a directory; give a JSONL file")
    try:
        # A byte-order mark, as some editors write it, is no part of the first record.
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                if "\\u" in line:
                    with contextlib.suppress(ValueError, RecursionError):  # not JSON: the caller reports it
                        _refuse_half_characters(json.loads(line), f"{path} line {number}")
                yield number, line
    except UnicodeDecodeError as error:
        raise AloeError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except FileNotFoundError:
        raise AloeError(f"{path}: no such file") from None
    except OSError as error:
        raise AloeError(f"{path}: cannot be read ({error.strerror or error})") from None


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Write the lines under a temporary name, then rename; returns how many.

    What stood at `path` stays until the new file is complete, so that `path` may be the file being read.
    Raises AloeError when there is nothing to write, and as `replacing_file` does.
    """
    count = 0
    with replacing_file(path) as partial:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            for line in lines:
                file.write(line + "\n")
                count += 1
        if not count:
            raise AloeError(f"{path}: not written: nothing in the source fits this format")
    return count


def dump(value: object) -> str:
    """One line of JSON, text as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# ---------------------------------------------------------------- fields


def mapping(value: object, where: str, field: str, required: Collection[str]) -> dict[str, object]:
    """An object with exactly these keys. Raises AloeError naming the first key that is missing or unknown."""
    if not isinstance(value, dict):
        raise AloeError(f"{where}: {field}: expected a JSON object, found {_kind(value)}")
    prefix = f"{field}." if field else ""
    for key in required:
        if key not in value:
            raise AloeError(f"{where}: {prefix}{key}: is missing")
    for key in value:
        if key not in required:
            raise AloeError(f"{where}: {prefix}{key}: is unknown and would be lost; remove it from every record")
    return value


def sequence(value: object, where: str, field: str) -> list[object]:
    """A JSON list with at least one item. Raises AloeError."""
    if value is None:
        raise AloeError(f"{where}: {field}: is missing")
    if not isinstance(value, list):
        raise AloeError(f"{where}: {field}: expected a list, found {_kind(value)}")
    if not value:
        raise AloeError(f"{where}: {field}: is empty")
    return value


def text(value: object, where: str, field: str) -> str:
    """A string that is not blank. Raises AloeError."""
    if value is None:
        raise AloeError(f"{where}: {field}: is missing")
    if not isinstance(value, str):
        raise AloeError(f"{where}: {field}: expected text, found {_kind(value)}")
    if not value.strip():
        raise AloeError(f"{where}: {field}: is empty")
    return value


def messages(record: Record, field: str, ends: str) -> tuple[str | None, list[str]]:
    """The texts of a chat: (the system message, user and assistant texts in turn).

    The system message is the first of the messages, or in a column of its own. The first text is the user's; `ends` is
    the role of the last message. Raises AloeError naming the first message that is out of turn or not plain text.
    """
    value, where = record.value.get(field), record.where
    items = sequence(value, where, field)
    texts: list[str] = []
    system: str | None = None
    role = ""
    for number, item in enumerate(items):
        name = f"{field}.{number}"
        if not isinstance(item, dict):
            raise AloeError(f"{where}: {name}: expected a JSON object, found {_kind(item)}")
        for key, given in item.items():
            if key in ("role", "content") or is_empty(given) or _says_learn(key, given):
                continue
            raise AloeError(f"{where}: {name}.{key}: is unknown and would be lost; remove it from every message")
        role = text(item.get("role"), where, f"{name}.role")
        if number == 0 and role == "system":
            system = content(item, where, name, optional=True) or None
            continue
        due = "assistant" if len(texts) % 2 else "user"
        if role != due:
            raise AloeError(f"{where}: {name}.role: is {role!r} where {due!r} is due; user and assistant take turns")
        said = item.get("content")
        if isinstance(said, list):
            said = joined(said, where, f"{name}.content")
        texts.append(text(said, where, f"{name}.content"))
    if not texts or role != ends:
        raise AloeError(f"{where}: {field}: must end with a message of the {ends}")
    return system_of(record.value, where, system), texts


def _says_learn(key: str, value: object) -> bool:
    """Whether a mark says what holds anyway: that a message is learned from."""
    return (key == "weight" and value == 1) or (key in FLAGS and value is True)


Notes = Callable[[str, int], None]  # counts something that the target cannot hold: (what, how often)


def note_columns(record: Record, known: Collection[str], note: Notes) -> None:
    """Count the columns that are not read: all that are not `known` and no system message."""
    for key in record.value:
        if key not in known and key not in SYSTEM:
            note(f"values of the column {key}", 1)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
