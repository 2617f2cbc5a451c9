"""Which conversations of a data set without a validation split are held out for validation.

A conversation's side depends on content alone, never on its position or on a seed, so that further records do not move
it, and the stages of a chain that read the same data set, or different parts of it, hold out the same people.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aloe_jax.errors import AloeError

MOST = 0.5  # share of the conversations above which a profile stays in training


def held_out(digests: Sequence[bytes], fraction: float, path: str) -> NDArray[np.bool_]:
    """Which records are held out, bool [N]: those whose digest is in the first `fraction` of all digests.

    Only where that would leave one side without any record, the one with the smallest or largest digest goes over.
    Raises AloeError naming `path` when all records are the same.
    """
    values = _numbers(digests)
    if values.min() == values.max():
        raise AloeError(
            f"{path}: nothing can be held out of {len(digests)} record(s) that all begin alike; "
            "give a validation split (NAME.validation.jsonl beside NAME.jsonl) or more records"
        )
    held = values < _limit(fraction)
    return (held | (values == values.min())) & (values < values.max()) if held.all() or not held.any() else held


def held_out_by_profile(profiles: Sequence[bytes], fraction: float, path: str) -> NDArray[np.bool_]:
    """Which conversations are held out, bool [N], so that none of them shares its profile with one that is not.

    `profiles`: a digest of the profile of every conversation. Those whose digest is in the first `fraction` of all
    digests are held out, as by `held_out`, but a profile of more than half of the conversations stays in training.
    Where that would leave one side empty, the profile with the smallest or the largest digest goes over. Raises
    AloeError naming `path` when there is one profile only.
    """
    values, owner, counts = np.unique(_numbers(profiles), return_inverse=True, return_counts=True)
    if len(values) < 2:
        raise AloeError(
            f"{path}: nothing can be held out by profile: its {len(profiles)} conversation(s) are all of one profile; "
            "give a validation split (NAME.validation.jsonl beside NAME.jsonl), or set "
            "data.validation_by=conversation, which validates on a person who is known from training"
        )
    free = counts <= MOST * len(profiles)  # at most one profile is not
    held = (values < _limit(fraction)) & free
    if not held.any():
        held[np.flatnonzero(free)[0]] = True
    elif held.all():
        held[-1] = False
    return held[owner]


def _numbers(digests: Sequence[bytes]) -> NDArray[np.uint64]:
    return np.array([int.from_bytes(digest[:8], "big") for digest in digests], np.uint64)


def _limit(fraction: float) -> np.uint64:
    return np.uint64(min(fraction * 2.0**64, 2.0**64 - 2048))
