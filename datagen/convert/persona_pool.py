"""Pools of persona texts: a JSON string a line as published, or plain text with one description a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from aloe_jax.errors import AloeError
from datagen.convert.json_lines import dump, read_lines, write_lines

_DECODER = json.JSONDecoder()


def read_pool(path: str | Path, plain: bool | None = None) -> list[str]:
    """The texts of a pool in order.

    `plain` (by default of a `.txt` file): one text a line. Otherwise JSON strings, of which a line of the published
    files may hold several in a row. Blank lines are passed over. Raises AloeError naming the line that is not of that
    form.
    """
    path = Path(path)
    plain = path.suffix == ".txt" if plain is None else plain
    lines = read_lines(path)
    pool = [
        text
        for number, line in lines
        for text in ([line.strip()] if plain else _json_strings(line.strip(), f"{path} line {number}"))
    ]
    if not pool:
        raise AloeError(f"{path}: holds no texts")
    return pool


def write_pool(path: str | Path, pool: Iterable[str]) -> int:
    """Write one text a line, as JSON strings or, into a `.txt` file, as plain text; returns how many.

    In plain text all white space, line breaks included, becomes single spaces; JSON keeps every character.
    """
    path = Path(path)
    return write_lines(path, (" ".join(text.split()) if path.suffix == ".txt" else dump(text) for text in pool))


def _json_strings(rest: str, where: str) -> Iterator[str]:
    while rest:
        try:
            text, end = _DECODER.raw_decode(rest)
        except ValueError as error:
            raise AloeError(f"{where}: not a JSON string ({error}); mend or remove the line") from None
        if not isinstance(text, str) or not text.strip():
            raise AloeError(f"{where}: expected a JSON string with a description, found {dump(text)[:60]}")
        yield text
        rest = rest[end:].lstrip()
