"""Chat templates run in a process of their own, with limits on computing time and memory (jinja_process.py)."""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from aloe_jax.data import jinja_process
from aloe_jax.errors import AloeError

SECONDS = 0.5  # of computing that any request may take, and more by how much it has to render:
SECONDS_A_MESSAGE = 2e-5  # many times what a template needs for one
SECONDS_A_CHARACTER = 2e-7
MEMORY = 512 << 20  # bytes of address space, and more by the size of the request
LARGE = 32 << 20  # bytes of a request after which the process is not used again
PATIENCE = 30.0  # times its computing time that a request may take by the clock, on a machine that is busy or stopped

Node = tuple[int, str, str]  # number of the message before it or -1, role, content
Job = tuple[int, bool]  # number of the last message, whether the prompt for a reply follows


def render(
    name: str, template: str, values: Mapping[str, object], nodes: Sequence[Node], jobs: Sequence[Job]
) -> list[str]:
    """The text of every job's path: the messages that end with its node.

    `values` are further variables of the template. Raises AloeError, which begins with `name`, when the template
    refuses the messages, fails, or goes beyond its limits.
    """
    seconds = SECONDS + _work(nodes, jobs)
    request = {
        "template": template,
        "values": dict(values),
        "nodes": nodes,
        "jobs": jobs,
        "seconds": seconds,
        "memory": MEMORY,
    }
    data = json.dumps(request, ensure_ascii=False).encode("utf-8", "surrogatepass")
    with _LOCK:
        process = _process()
        found = process.ask(data, seconds)
        if "killed" in found:  # by a person, or by a machine short of memory: that says nothing of the template
            found = (process := _process()).ask(data, seconds)
        if len(data) > LARGE or "spent" in found:  # what it may still hold of that does not count against the next
            process.close()
    texts = found.get("texts")
    if "killed" in found:
        raise AloeError(f"{name}: the process that renders its chat template was killed twice; free memory, run again")
    if not isinstance(texts, list):
        reason = " ".join(str(found.get("error")).split())
        reason = (reason if len(reason) <= 300 else f"{reason[:300]}…").encode("utf-8", "backslashreplace").decode()
        raise AloeError(f"{name}: the chat template refuses the messages ({reason})")
    return texts


def _work(nodes: Sequence[Node], jobs: Sequence[Job]) -> float:
    depth: list[int] = []
    length: list[int] = []
    for before, _, content in nodes:
        depth.append(1 + (depth[before] if before >= 0 else 0))
        length.append(len(content) + (length[before] if before >= 0 else 0))
    return sum(SECONDS_A_MESSAGE * depth[last] + SECONDS_A_CHARACTER * length[last] for last, _ in jobs)


class _Process:
    """The process, as long as it lives."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        # What a template may see of the environment is nothing; where Python finds Jinja is all that it needs.
        environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-P", str(Path(jinja_process.__file__))]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    @property
    def is_usable(self) -> bool:
        """Whether it is this process's own, not that of the one it was forked from, and lives."""
        return self.owner == os.getpid() and self._child.poll() is None

    def ask(self, data: bytes, seconds: float) -> Mapping[str, object]:
        """The answer to a request; `error` in it where there is none, `killed` where it was ended from outside."""
        assert self._child.stdin is not None and self._child.stdout is not None
        end = time.monotonic() + PATIENCE * seconds
        try:
            self._child.stdin.write(len(data).to_bytes(8, "big") + data)
            self._child.stdin.flush()
            size = int.from_bytes(self._read(self._child.stdout, 8, end), "big")
            found: Mapping[str, object] = json.loads(self._read(self._child.stdout, size, end))
            return found
        except TimeoutError:
            self.close()
            return {"error": f"it did not end in {PATIENCE * seconds:.0f} s"}
        except (EOFError, BrokenPipeError):
            code = self._child.wait()
            self.close()
            if code == -signal.SIGPROF:
                return {"error": f"it did not end in {seconds:.1f} s of computing"}
            if code == -signal.SIGKILL:
                return {"killed": True}
            reason = f"signal {-code}" if code < 0 else f"status {code}"
            return {"error": f"the process that renders it ended with {reason}"}
        except BaseException:  # interrupted between a request and its answer: the next one would get this answer
            self.close()
            raise

    @staticmethod
    def _read(stream: IO[bytes], size: int, end: float) -> bytes:
        found = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while len(found) < size:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise TimeoutError
                piece = os.read(stream.fileno(), min(size - len(found), 1 << 20))
                if not piece:
                    raise EOFError
                found += piece
        return bytes(found)

    def close(self) -> None:
        """End it. Forked processes leave it to the one that started it."""
        if self.owner == os.getpid():
            self._child.kill()
            self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                stream.close()


_LOCK = threading.Lock()
_CURRENT: list[_Process] = []  # the one that is running, if any


def _process() -> _Process:
    if not (_CURRENT and _CURRENT[0].is_usable):
        _end()
        _CURRENT.append(_Process())
    return _CURRENT[0]


def _forked() -> None:
    # A thread that this process does not have may hold the lock of the process that it was forked from.
    global _LOCK  # noqa: PLW0603
    _LOCK = threading.Lock()


os.register_at_fork(after_in_child=_forked)


@atexit.register
def _end() -> None:
    while _CURRENT:
        _CURRENT.pop().close()
