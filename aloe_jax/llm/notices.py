"""What a person should know while models are asked: a long wait, a setting that a server does not take."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[str], None]

_listeners: list[Listener] = []
_NOTHING_NEW = 5.0  # seconds by which a wait may outlast one that was reported
_lock = threading.Lock()
_quiet_until: dict[str, float] = {}  # who waits -> when that may be reported again
_waits: list[float] = []  # seconds of every wait


def report(text: str) -> None:
    """Pass one line on to the listeners, or to stderr where there are none. Called from any thread."""
    with _lock:
        listeners = list(_listeners)
    for listener in listeners or [_print]:
        listener(text)


def waiting(who: str, seconds: float, text: str) -> None:
    """Count a wait that a server asks for, and report it; once while it lasts, however many threads wait."""
    now = time.monotonic()
    with _lock:
        _waits.append(seconds)
        # Who has just been heard to wait as long says nothing new.
        known = _quiet_until.get(who, 0.0) > max(now, now + seconds - _NOTHING_NEW)
        if not known:
            _quiet_until[who] = now + seconds
    if not known:
        report(text)


def waited() -> tuple[int, float]:
    """How many waits of more than a few seconds servers have asked this process for, and their seconds in all."""
    with _lock:
        return len(_waits), sum(_waits)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """While the block runs, `listener` hears what would go to stderr: a command with a display of its own."""
    with _lock:
        _listeners.append(listener)
    try:
        yield
    finally:
        with _lock:
            _listeners.remove(listener)


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
