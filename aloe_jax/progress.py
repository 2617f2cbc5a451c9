"""What a long command says while it works: bars at a terminal, elsewhere a line now and then, both on stderr.

A line says what is finished, what is in flight, and which attempts failed and were made again, by reason:

    1 min 20 s: ratings 12 of 200; 8 calls in flight, 31 made; 14 attempts failed and were made again: 9 timeout, …
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import TaskID

    from aloe_jax.llm.ledger import Ledger

EVERY = 20.0  # seconds between lines
VARIABLE = "ALOE_PROGRESS_SECONDS"  # environment variable: other seconds


@dataclass
class Task:
    """One phase. `name` and `done` may be set at any time, from any thread."""

    name: str
    total: int
    done: int = 0

    def advance(self, by: int = 1) -> None:
        """So many more are done."""
        with _counting:
            self.done += by


_counting = threading.Lock()


class Progress:
    """The phases of a command; as a context manager. `ledger` knows of calls, embeddings and failed attempts."""

    def __init__(self, ledger: Ledger | None = None, every: float | None = None) -> None:
        self.tasks: list[Task] = []
        self._ledger = ledger
        self._every = every if every is not None else seconds_between_lines()
        self._start = time.monotonic()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._bars: Callable[[], None] | None = None

    def add(self, name: str, total: int) -> Task:
        """A further phase."""
        task = Task(name, total)
        self.tasks.append(task)
        return task

    def attempts(self) -> str:
        """What is in flight, and which attempts failed."""
        if self._ledger is None:
            return ""
        parts = []
        if self._ledger.embedding:
            parts.append("embeddings {:,} of {:,}".format(*self._ledger.embedding))
        flying, made = self._ledger.in_flight, self._ledger.made
        if flying or made:
            parts.append(f"{flying:,} calls in flight, {made:,} made")
        if failed := self._ledger.retried.total():
            kinds = ", ".join(f"{count:,} {fault}" for fault, count in self._ledger.retried.most_common())
            parts.append(f"{failed:,} attempts failed and were made again: {kinds}")
        return "; ".join(parts)

    def line(self) -> str:
        """All of it in one line."""
        phases = [f"{task.name} {task.done:,} of {task.total:,}" for task in list(self.tasks)]
        said = "; ".join(part for part in (", ".join(phases), self.attempts()) if part)
        return f"{_duration(time.monotonic() - self._start)}: {said or 'starting'}"

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bars = _bars(self)
        else:
            self._thread = threading.Thread(target=self._speak, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Say how far it came; nothing after that."""
        if self._over.is_set():
            return
        self._over.set()
        if self._bars is not None:
            self._bars()
        elif self._thread is not None:
            self._thread.join()
            self._say()

    def _speak(self) -> None:
        while not self._over.wait(self._every):
            self._say()

    def _say(self) -> None:
        try:
            print(self.line(), file=sys.stderr, flush=True)
        except (OSError, ValueError):  # nobody reads it, which is no reason to stop working
            self._over.set()


def seconds_between_lines() -> float:
    """As the environment says, else EVERY."""
    try:
        return max(0.05, float(os.environ.get(VARIABLE, EVERY)))
    except ValueError:
        return EVERY


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def _bars(progress: Progress) -> Callable[[], None]:
    """Show bars at the terminal until the function that is returned is called."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    bars = Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        auto_refresh=False,
    )
    shown: dict[int, TaskID] = {}

    def render() -> RenderableType:
        for number, task in enumerate(list(progress.tasks)):
            if number not in shown:
                shown[number] = bars.add_task(task.name, total=task.total)
            bars.update(shown[number], description=task.name, completed=task.done, total=task.total)
        return Group(bars.make_tasks_table(bars.tasks), *([Text(said)] if (said := progress.attempts()) else []))

    live = Live(get_renderable=render, console=Console(stderr=True), refresh_per_second=5)
    live.start()
    return live.stop
