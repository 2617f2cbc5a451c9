"""Standard streams of a command that are closed, full, or read by a process that is gone."""

from __future__ import annotations

import io
import os
import select
import sys
from contextlib import suppress


def open_streams() -> None:
    """Open closed streams (`>&-`) on the null device, so that no file gets their number and what is printed to them.

    What the terminal's encoding cannot express is printed escaped: an arrow is no reason to end.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  until the process ends
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def reader_is_gone() -> bool:
    """Whether the pipe that broke is standard output or error and not, say, a connection."""
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def discard_output() -> None:
    """Send what is still buffered to the null device: writing it would fail again when Python ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
