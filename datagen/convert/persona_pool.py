"""Pools of persona texts: a JSON string a line as published, or plain text with one description a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from aloe_jax.errors import AloeError
from datagen.convert.json_lines import dump, read_lines, write_lines

_DECODER = json.JSONDecoder()


def read_pool(path: str | Path) -> list[str]:
    """The texts of a pool in order.

    `.txt`: one text a line. Any other name: JSON strings, of which a line of the published files may hold several
    in a row. Blank lines are passed over. Raises AloeError naming the line that is not of that form.
    """
    path = Path(path)
    pool = [text for number, line in read_lines(path) for text in _texts(path, number, line)]
    if not pool:
        raise AloeError(f"{path}: holds no texts")
    return pool


def write_pool(path: str | Path, pool: Iterable[str]) -> int:
    """Write one text a line, as JSON strings or, into a `.txt` file, as plain text; returns how many.

    Plain text has white space, line breaks included, made single spaces; JSON keeps every character.
    """
    path = Path(path)
    return write_lines(path, (" ".join(text.split()) if path.suffix == ".txt" else dump(text) for text in pool))


def _texts(path: Path, number: int, line: str) -> Iterator[str]:
    if path.suffix == ".txt":
        yield line.strip()
        return
    rest = line.strip()
    while rest:
        where = f"{path} line {number}"
        try:
            text, end = _DECODER.raw_decode(rest)
        except ValueError as error:
            raise AloeError(f"{where}: not a JSON string ({error}); mend or remove the line") from None
        if not isinstance(text, str) or not text.strip():
            raise AloeError(f"{where}: expected a JSON string with a description, found {dump(text)[:60]}")
        yield text
        rest = rest[end:].lstrip()
