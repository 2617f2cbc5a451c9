"""Embeddings without a model: hashed words, so that texts which share words lie near each other."""

from __future__ import annotations

import hashlib
import math
import re

DIMENSIONS = 768


def vector(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A vector of unit length that depends on the text alone."""
    values = [0.0] * dimensions
    for word in re.findall(r"[a-z0-9]+", text.lower()):
        digest = hashlib.md5(word.encode()).digest()
        # Two places a word: fewer collisions than one.
        for place in (digest[:4], digest[4:8]):
            values[int.from_bytes(place, "big") % dimensions] += 1.0 if digest[8] & 1 else -1.0
    length = math.sqrt(sum(value * value for value in values))
    return [round(value / length, 6) for value in values] if length else [0.0] * (dimensions - 1) + [1.0]
