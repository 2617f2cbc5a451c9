"""What Orbax abandons when a read fails: nothing of it is reported, and everything else is."""

import asyncio
import contextlib
import ctypes
import gc
import sys
import types

import pytest

from aloe_jax.models.abandoned import abandoned_in_silence

# As Orbax's: what ends it while it waits is raised as an exception of another kind.
READ = """
async def read(forever):
    try:
        await forever
    except BaseException as error:
        raise Exception("Encountered error while reading array index") from error
"""


@types.coroutine
def never():
    yield


def started(file):
    """A read that has begun and waits, by the code of a file of that name."""
    names = {}
    exec(compile(READ, file, "exec"), names)
    read = names["read"](never())
    read.send(None)
    return read


def too_late(loop):
    """A file's thread comes with what it has read when nobody waits any more."""
    ctypes.CFUNCTYPE(None)(lambda: loop.call_soon_threadsafe(print))()


@pytest.fixture
def reported(monkeypatch):
    """What Python would print, of either kind: in words, for an exception refers to its frames."""
    found = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: found.append(str(args.exc_value)))
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: found.append(str(error)))
    return found


def read(file, loop):
    """Fails while a read of `file` is under way, which the exception's frames and a cycle refer to."""
    under_way = [started(file)]
    under_way.append(under_way)
    too_late(loop)
    try:
        raise ValueError
    except ValueError:
        raise OSError("the first fault") from None


def failing_read(file, loop, silence):
    with contextlib.suppress(OSError), silence():
        read(file, loop)
    gc.collect()


@pytest.fixture
def closed():
    loop = asyncio.new_event_loop()
    loop.close()
    return loop


def test_what_is_abandoned_is_not_reported(reported, closed):
    failing_read("site-packages/orbax/checkpoint/serialization.py", closed, abandoned_in_silence)
    assert reported == []


def test_without_it_both_are(reported, closed):
    failing_read("site-packages/orbax/checkpoint/serialization.py", closed, contextlib.nullcontext)
    assert sorted(reported) == ["Encountered error while reading array index", "Event loop is closed"]


def test_what_others_leave_is_reported(reported, closed):
    failing_read("site-packages/another/reader.py", closed, abandoned_in_silence)
    assert reported == ["Encountered error while reading array index"]


def test_the_hooks_are_as_before(reported):
    before = sys.unraisablehook, sys.excepthook
    with abandoned_in_silence():
        sys.excepthook(RuntimeError, RuntimeError("Event loop is closed"), None)
        sys.excepthook(RuntimeError, RuntimeError("another"), None)
    assert (sys.unraisablehook, sys.excepthook) == before
    assert reported == ["another"]
    with pytest.raises(OSError, match="the first fault"), abandoned_in_silence():
        raise OSError("the first fault")
    assert (sys.unraisablehook, sys.excepthook) == before
