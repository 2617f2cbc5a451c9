"""Every script here starts with the signals of a terminal, whatever a library has set in this process."""

import signal

import pytest


@pytest.fixture(autouse=True)
def terminal_signals():
    """A compiler for TPUs that was loaded before has SIGHUP ignored, which the scripts would inherit."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before if before is not None else signal.SIG_DFL)
