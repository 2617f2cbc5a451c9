"""The ranges of settings: types whose every value means something to NumPy, JAX and the file system.

A number has a lower and an upper end. The upper ones are far beyond any use and small enough that a slip of the
keyboard is an error in a line, not a machine out of memory.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field

LARGEST = 2**31 - 1  # of a 32-bit integer: JAX's steps and seeds
LONGEST_PATH, LONGEST_NAME = 4096, 255  # bytes of a path and of one of its parts, on Linux

Seed = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(gt=0, le=LARGEST)]
Several = Annotated[int, Field(gt=0, le=1000)]  # of something done again and again: votes, turns, layers
Thousands = Annotated[int, Field(gt=0, le=1_000_000)]
Width = Annotated[int, Field(gt=0, le=2**20)]  # of one axis of a weight
Heads = Annotated[int, Field(gt=0, le=2**14)]
Tokens = Annotated[int, Field(gt=0, le=2**20)]  # of a row, a context or a reply
Rows = Annotated[int, Field(gt=0, le=2**16)]  # computed together
AtOnce = Annotated[int, Field(gt=0, le=1024)]  # threads, one call per thread
Devices = Annotated[int, Field(ge=-1, le=2**20)]  # -1: what is left
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]  # of a running mean: with 1 it would never move
Weight = Annotated[float, Field(ge=0.0, le=1e6)]  # of a term in a sum; 0 leaves it out
Factor = Annotated[float, Field(ge=1e-6, le=1e6)]  # float32 holds it and what it is multiplied with
Dollars = Annotated[float, Field(gt=0, le=1e9)]


def _cold_or_warm(temperature: float) -> float:
    if 0 < temperature < 1e-3:
        raise ValueError(f"{temperature:g} is too close to 0 to divide by; give 0 (greedy) or at least 0.001")
    return temperature


Temperature = Annotated[float, Field(ge=0.0, le=100.0), AfterValidator(_cold_or_warm)]


def readable(text: str) -> str:
    """`text` itself. Raises ValueError for what no name of a file or a model has: control characters, half a code."""
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs"):
            raise ValueError(f"{text[:80]!r} has the character U+{ord(character):04X} in it; take it out")
    return text


def _a_path(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty; give a path")
    if text == "~" or text.startswith("~/"):
        raise ValueError(f"{text[:80]!r} begins with ~, which only a shell replaces; write the home directory out")
    name = max(text.split("/"), key=len)
    if len(text.encode(errors="replace")) > LONGEST_PATH or len(name.encode(errors="replace")) > LONGEST_NAME:
        raise ValueError(
            f"{text[:60]!r}… is too long for a path: at most {LONGEST_PATH} bytes, {LONGEST_NAME} in each name"
        )
    return text


PathText = Annotated[str, AfterValidator(_a_path)]
