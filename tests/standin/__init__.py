"""A stand-in for the servers of language models, run as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class StandIn:
    """A running stand-in."""

    url: str  # http://127.0.0.1:PORT
    process: subprocess.Popen[str]

    def show(self, clear: bool = False) -> dict[str, Any]:
        """`requests`, `peak` and `in_flight` counts, and the `recent` requests with their headers and bodies."""
        with urllib.request.urlopen(f"{self.url}/_log{'?clear=1' if clear else ''}", timeout=10) as answer:
            return json.load(answer)

    def of(self, id: str) -> list[dict[str, Any]]:
        """The recent requests of one request id, oldest first."""
        return [seen for seen in self.show()["recent"] if seen["id"] == id]


@contextmanager
def running(**options: object) -> Iterator[StandIn]:
    """Start one on a free port with the options of `tests.standin.server`, for instance `latency=0.5`.

    It ends with the block, and with this process however that ends.
    """
    arguments = [str(part) for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    command = [sys.executable, "-m", "tests.standin.server", "--until-stdin-closes", *arguments]
    process = subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError(f"the stand-in did not start (status {process.wait()})")
        yield StandIn(url, process)
    finally:
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
