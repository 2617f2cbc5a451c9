"""CRC-32 of a whole from those of its parts: what was computed of tensors in memory becomes that of their file."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterable
from pathlib import Path

_PIECE = 1 << 22  # bytes read at a time
_POLYNOMIAL = 0xEDB88320  # of CRC-32, its bits in reverse


def crc32_of(file: Path) -> int:
    """Of a file's content."""
    found = 0
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE):
            found = zlib.crc32(piece, found)
    return found


def combined(parts: Iterable[tuple[int, int]]) -> int:
    """Of parts one after the other, each given as its own CRC-32 and its length in bytes."""
    found = 0
    for crc, length in parts:
        found = _applied(_zeros(length), found) ^ crc
    return found


@functools.lru_cache(maxsize=1024)  # a model's tensors are of few lengths
def _zeros(length: int) -> tuple[int, ...]:
    """What `length` zero bytes do to a CRC, as a matrix over GF(2): the image of each of its 32 bits."""
    step = (_POLYNOMIAL, *(1 << bit for bit in range(31)))  # one zero bit
    for _ in range(3):
        step = _squared(step)
    whole = tuple(1 << bit for bit in range(32))
    while length:
        if length & 1:
            whole = tuple(_applied(step, image) for image in whole)
        step = _squared(step)
        length >>= 1
    return whole


def _squared(matrix: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(_applied(matrix, image) for image in matrix)


def _applied(matrix: tuple[int, ...], vector: int) -> int:
    found = 0
    for image in matrix:
        if not vector:
            break
        if vector & 1:
            found ^= image
        vector >>= 1
    return found
