"""One command of ours as a process of its own, which ends with this one."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence


def run_command(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run this Python with `arguments` and more `environment`; returns its exit status, negative for a signal.

    A Ctrl-C reaches the command as well, which may have something to save: it is waited for, and KeyboardInterrupt is
    raised when it has ended. A second one, and the end of this process, kills it.
    """
    with subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        preexec_fn=die_with_parent,  # noqa: PLW1509  commands that start others have no threads
    ) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            try:
                process.wait()
            except KeyboardInterrupt:
                process.kill()
            raise


def die_with_parent() -> None:
    """In a child on Linux: end when the parent is killed, so that a restarted command never meets its own orphan."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
