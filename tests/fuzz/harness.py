"""Inputs by the thousand for one door: each is accepted, or refused in one line, within five seconds of computing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, strategies

SECONDS = 30.0  # of one door in the long tests
INPUTS = "ALOE_FUZZ_INPUTS"  # environment variable: so many inputs of each door, however long they take
LONGEST = 5.0  # seconds of computing that one input may take
BUSY = 6  # times so long it may take by the clock, which a busy machine stretches
_BATCH = 100


def fuzz(inputs: strategies.SearchStrategy[Any], check: Callable[[Any], object]) -> int:
    """Give `check` one input after the other; what it raises fails the test, shrunk to its smallest form.

    `check` itself says what is right: it calls the door and lets nothing pass but AloeError, whose message it may
    examine (`one_line`). Returns how many inputs were tried: for SECONDS, or as many as ALOE_FUZZ_INPUTS says.
    """
    wanted = int(os.environ.get(INPUTS, "0"))
    end = time.monotonic() + SECONDS
    tried = 0

    def timed(value: Any) -> None:
        nonlocal tried
        tried += 1
        start, computed = time.monotonic(), time.process_time()
        check(value)
        took, computed = time.monotonic() - start, time.process_time() - computed
        assert computed < LONGEST and took < BUSY * LONGEST, f"took {took:.1f} s, {computed:.1f} s of computing"

    batch = 0
    while tried < wanted if wanted else time.monotonic() < end:
        settings = hypothesis.settings(
            max_examples=_BATCH,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.target, Phase.shrink),
        )
        before = tried
        # Another seed each time: the batches together are one long run that can end at any moment.
        hypothesis.seed(batch)(settings(given(inputs)(timed)))()
        batch += 1
        assert tried > before
    print(f"{tried:,} inputs")
    return tried


def one_line(error: Exception) -> str:
    """The message of an error that a person reads: one line, of a length that can be read. Fails otherwise."""
    text = str(error)
    assert text and "\n" not in text and len(text) < 2000, repr(text[:500])
    assert "Traceback" not in text, text
    return text
