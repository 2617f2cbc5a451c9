"""Commands in real processes that start at once: forked from one that has imported what they need.

A process of its own costs a command its imports, seconds of computing each time. A parent, which every pytest worker
starts once, imports them and forks: signals, exit statuses and streams are those of a real process. All children share
one hash seed, so a test of equal results in different processes starts one of them as usual.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

# What a command imports sooner or later. Nothing of it starts a thread or looks for devices.
NEEDS = {
    "aloe_jax.train": ("aloe_jax.training.loop",),
    "aloe_jax.chat": ("aloe_jax.sampling.loading", "aloe_jax.sampling.talk"),
    "aloe_jax.evaluate": ("aloe_jax.benchmark.stages", "aloe_jax.report.page", "aloe_jax.sampling.loading"),
    "datagen": ("datagen.build", "datagen.conversations", "datagen.personas", "sklearn.feature_extraction.text"),
}
_LONGEST = 1 << 17  # bytes of a request


class Process:
    """A running command; its methods are those of `subprocess.Popen`."""

    def __init__(self, *arguments: object, env: dict[str, str] | None = None) -> None:
        """`python -m ARGUMENTS` with its outputs on pipes."""
        module, *rest = map(str, arguments)
        request = {"module": module, "arguments": rest, "env": dict(env or os.environ), "cwd": os.getcwd()}
        self._ended, ended = socket.socketpair()
        (output, theirs), (errors, their_errors) = os.pipe(), os.pipe()
        given = [os.open(os.devnull, os.O_RDONLY), theirs, their_errors, ended.detach()]
        socket.send_fds(_parent(module), [json.dumps(request).encode()], given)
        for number in given:
            os.close(number)
        (self.pid,) = struct.unpack("i", self._ended.recv(4))
        self.returncode: int | None = None
        self.stdout = os.fdopen(output, encoding="utf-8", errors="replace")
        self.stderr = os.fdopen(errors, encoding="utf-8", errors="replace")

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        if self.returncode is None and select.select([self._ended], [], [], 0)[0]:
            (status,) = struct.unpack("i", self._ended.recv(4))
            self.returncode = os.waitstatus_to_exitcode(status)
            self._ended.close()
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit status. Raises TimeoutExpired when the process still runs after `timeout` seconds."""
        if self.returncode is None:
            select.select([self._ended], [], [], timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process at once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 240) -> tuple[str, str]:
        """What it writes until it ends: output and errors. Kills it and raises TimeoutExpired after `timeout` s."""
        with ThreadPoolExecutor(2) as readers:
            reading = [readers.submit(stream.read) for stream in (self.stdout, self.stderr)]
            if wait(reading, timeout).not_done:
                self.kill()
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        self.stdout.close()
        self.stderr.close()
        self.wait(timeout)
        output, errors = (each.result() for each in reading)
        return output, errors


@cache
def _parent(module: str) -> socket.socket:
    """Where the process that has imported what a command needs takes requests."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.forked", str(theirs.fileno()), *NEEDS[module]]
    root = Path(__file__).parent.parent
    process = subprocess.Popen(command, cwd=root, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()
    atexit.register(process.wait)
    atexit.register(ours.close)  # comes first; when there can be no more requests, the parent ends
    return ours


# ---------------------------------------------------------------- in the parent


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Fork for every request. Returns the request in the child, and None in the parent when there are no more."""
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    running: dict[int, int] = {}  # process -> where its end is reported
    while True:
        ready, _, _ = select.select([requests, woken], [], [])
        if woken in ready:
            woken.recv(1024)
            for pid in list(running):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    report = running.pop(pid)
                    with suppress(BrokenPipeError):  # nobody waits for it any more
                        os.write(report, struct.pack("i", status))
                    os.close(report)
        if requests in ready:
            text, given, _, _ = socket.recv_fds(requests, _LONGEST, 4)
            if not text:
                return None
            *streams, report = given
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                for inherited in (*given, *running.values()):
                    os.close(inherited)
                for connection in (requests, woken, wake):
                    connection.close()
                return json.loads(text)
            for stream in streams:
                os.close(stream)
            os.write(report, struct.pack("i", pid))
            running[pid] = report


def _become(request: dict[str, Any]) -> None:
    """What the interpreter does before a module runs: its environment, its streams, its arguments."""
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115
    written = open(1, "wb", buffering=0 if unbuffered else -1)  # noqa: SIM115
    sys.stdout = io.TextIOWrapper(written, encoding="utf-8", write_through=unbuffered)
    written = open(2, "wb")  # noqa: SIM115
    sys.stderr = io.TextIOWrapper(written, encoding="utf-8", errors="backslashreplace", line_buffering=True)
    sys.argv = [request["module"], *request["arguments"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for name in sys.argv[2:]:
        import_module(name)
    if (found := _serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        _become(found)
