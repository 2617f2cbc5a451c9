"""What Orbax abandons when a read fails, kept off the terminal.

It reads all arrays at once, and after the first that fails it leaves the others alone: their coroutines end when Python
clears them up, and their files' threads find that nobody waits. Python reports both as tracebacks of hundreds of lines,
even where the read is repeated and succeeds. The exception that ended the read says all that there is to say.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import time
import traceback
from collections.abc import Iterator
from types import CoroutineType, TracebackType

UNDER_WAY = 0.2  # seconds that reads of a file take to end after the one that failed


@contextlib.contextmanager
def abandoned_in_silence() -> Iterator[None]:
    """Read inside; where that raises, what Orbax has abandoned is cleared up before the exception goes on."""
    reported, raised = sys.unraisablehook, sys.excepthook

    def unraisable(found: sys.UnraisableHookArgs) -> None:
        if not (_is_read(found.object) or _is_late(found.exc_value)):
            reported(found)

    def unhandled(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not _is_late(error):
            raised(kind, error, trace)

    sys.unraisablehook, sys.excepthook = unraisable, unhandled
    try:
        yield
    except Exception as error:
        time.sleep(UNDER_WAY)
        _clear(error)
        gc.collect()
        raise
    finally:
        sys.unraisablehook, sys.excepthook = reported, raised


def _is_read(ended: object) -> bool:
    """Whether what ended is a coroutine of Orbax's."""
    return isinstance(ended, CoroutineType) and "orbax" in ended.cr_code.co_filename


def _is_late(error: BaseException | None) -> bool:
    """Whether a file's thread came when nobody waited any more."""
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


def _clear(error: BaseException) -> None:
    """Let go of what the frames of an exception, and of those behind it, refer to; their lines stay."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            waiting += [other for other in (one.__cause__, one.__context__) if other is not None]
