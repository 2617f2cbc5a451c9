"""A contestant: answers JSON lines on standard input with JSON lines on standard output, and meters its own work.

Runs in every contestant's environment: standard library only. Whatever a library prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Answer = dict[str, Any]
Handler = Callable[[Answer], Answer]


def serve(handlers: dict[str, Handler]) -> None:
    """Answer {"do": name, …} lines until `quit` or the end of input; an error is answered too, and ends it."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "quit":
            return
        try:
            answer = handlers[request["do"]](request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if "error" in answer:
            return


class Gate:
    """Lets a training run that goes on in a thread take so many steps and holds it in between."""

    def __init__(self) -> None:
        self._granted: queue.Queue[int] = queue.Queue()
        self._held: queue.Queue[BaseException | None] = queue.Queue()
        self._left = 0

    def step(self) -> None:
        """Called by the run before every step: returns when the step may be taken."""
        if self._left == 0:
            self._held.put(None)
            self._left = self._granted.get()
        self._left -= 1

    @property
    def closed(self) -> bool:
        """Whether the next step has to wait: what is still being computed belongs to the steps before."""
        return self._left == 0

    def start(self, train: Callable[[], None]) -> None:
        """Begin the run; returns when its first step is about to begin. Raises what the run raises."""

        def run() -> None:
            try:
                train()
                self._held.put(RuntimeError("the training run ended too soon"))
            except BaseException as error:
                traceback.print_exc()
                self._held.put(error)

        threading.Thread(target=run, daemon=True).start()
        self._wait()

    def run(self, steps: int) -> None:
        """Let so many steps happen; returns when the next one is about to begin."""
        self._granted.put(steps)
        self._wait()

    def _wait(self) -> None:
        error = self._held.get()
        if error is not None:
            raise error


class Meter:
    """Wall seconds, CPU seconds of all threads and of finished children, and peak memory."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), cpu_seconds()

    def read(self) -> Answer:
        """{"wall", "cpu" in seconds since the start, "peak" in bytes since the process began or `forget_peak`}."""
        return {
            "wall": time.perf_counter() - self._wall,
            "cpu": cpu_seconds() - self._cpu,
            "peak": peak_memory(),
        }


def cpu_seconds() -> float:
    """User and system time of this process and its finished children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def peak_memory() -> int:
    """Bytes of resident memory at its highest."""
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> bool:
    """Start the high-water mark anew from what is resident now; False where the system does not do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


@contextmanager
def told(what: str) -> Iterator[None]:
    """Say in the log how long something took."""
    start = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
