"""What a person reads of an exception: one line that names the file and what is wrong with it, where that is known."""

from __future__ import annotations

import io
import json
import os
import re
import sqlite3
import sys
import tarfile
import tempfile
import time
import traceback
import unicodedata
import zipfile
import zlib
from pathlib import PurePath

from aloe_jax.errors import AloeError
from aloe_jax.storage.disk import FULL, of_the_system

LONGEST = 1500  # characters of a message; more is cut in the middle
_BREAKS = re.compile("[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+[ \t\n\v\f\r]*")
_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # turn text around
# Damage that their own readers did not turn into a message: of a file, not of the program.
_DAMAGE = (json.JSONDecodeError, zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, sqlite3.Error)
_OURS = ("aloe_jax", "datagen")


def one_line(text: str) -> str:
    """The text on one line that does no harm in a terminal: breaks become spaces, control characters are escaped."""
    text = _BREAKS.sub(" ", text).strip()
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 400]} … {text[-390:]}"
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ("Cc", "Cs") or character in _DIRECTIONS
        else character
        for character in text
    )


def explain(error: BaseException) -> str | None:
    """What to print of an exception that a file, a disk, a server or a setting can cause; None for a defect of ours."""
    if isinstance(error, AloeError):
        return one_line(str(error)) or "stopped, without saying why"
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(explain, error.exceptions)), None)
    reason = _reason(error)
    if reason is None:
        return None
    file = _file_of(error)
    return one_line(reason if file is None else f"{file}: {reason}")


def _reason(error: BaseException) -> str | None:  # noqa: PLR0911
    said = one_line(str(error))
    known = of_the_system(error)
    if known is not None:
        reason = (error.strerror if isinstance(error, OSError) else None) or said or type(error).__name__
        full = "; free some space and give the same command again" if known.errno in FULL else ""
        return f"{reason}{full}"
    if isinstance(error, UnicodeDecodeError):
        return f"is not text in {error.encoding} ({error.reason} at byte {error.start:,})"
    if isinstance(error, UnicodeError):
        return f"holds a character that cannot be written as text ({said})"
    if isinstance(error, RecursionError):
        return "is nested too deeply to be read"
    if isinstance(error, MemoryError):
        return f"does not fit into the memory of this machine ({said or 'out of memory'})"
    if isinstance(error, _DAMAGE):
        kind = "an SQLite database" if isinstance(error, sqlite3.Error) else "a file"
        return f"{kind} cannot be used: {said or type(error).__name__}"
    if isinstance(error, ValueError) and "embedded null" in said:
        return "a path holds a NUL character, which no file's name can"
    module = type(error).__module__.partition(".")[0]
    if module.startswith("safetensors"):
        return f"a safetensors file cannot be used: {said}"
    if module == "yaml":
        return f"is not YAML: {said}"
    if module in ("jax", "jaxlib") and "RESOURCE_EXHAUSTED" in said:
        return f"does not fit into the memory of the devices: {said}"
    return None


def _file_of(error: BaseException) -> str | None:
    """The file that the exception names, or else that was being read or written where it was raised."""
    if isinstance(error, OSError) and error.filename is not None:
        return _text(error.filename)
    # From where it was raised to where it was caught.
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        name = str(frame.f_globals.get("__name__", ""))
        if name.startswith("pathlib"):
            found = frame.f_locals.get("self")
            if isinstance(found, PurePath):
                return str(found)
        if name.partition(".")[0] in _OURS:
            return next((found for value in frame.f_locals.values() if (found := _open_file(value))), None)
    return None


def _open_file(value: object) -> str | None:
    if not isinstance(value, io.IOBase) or value in (sys.stdin, sys.stdout, sys.stderr):
        return None
    name = getattr(value, "name", None)
    return _text(name) if isinstance(name, str | bytes | os.PathLike) else None


def _text(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else f"file descriptor {name}"


def defect(error: BaseException) -> str:
    """The line on an exception that nothing but a defect of the program explains; its traceback goes into a file."""
    said = one_line(str(error))
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    trace = "".join(traceback.format_exception(error))
    try:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        descriptor, file = tempfile.mkstemp(prefix=f"aloe-jax-{stamp}-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(trace)
    except OSError:
        return f"a defect of aloe-jax: {what} (--debug shows where)"
    return f"a defect of aloe-jax: {what} (where: {file}; please report it)"
