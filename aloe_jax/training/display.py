"""What a person sees of a run: a live display on a terminal, plain lines elsewhere and in train.log."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aloe_jax.progress import seconds_between_lines
from aloe_jax.training.metrics import formats, line
from aloe_jax.training.stages.stage import Watched

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

LOG = "train.log"
COMPILING = "compiling"  # the stage of a run's first step
TURNS = 10  # in a line, so that it fits 80 columns
NOTHING_MORE = Watched({})


class Display:
    """Tells of one run, as a context manager; `started_at` of `total_steps` steps were done before it.

    On a terminal the lower lines are live: stage, bar, the last values and the time left; notes and validations
    scroll by above. Elsewhere every reading is a line. Lines go to train.log as well, each with the time, after
    those of earlier starts. With `quiet` (all processes but the first) nothing is shown or written. The terminal is
    its own again when the `with` block ends, however it ends.
    """

    def __init__(
        self,
        directory: Path,
        total_steps: int,
        started_at: int = 0,
        *,
        shown: Watched = NOTHING_MORE,
        quiet: bool = False,
        console: Console | None = None,
    ):
        from rich.console import Console
        from rich.spinner import Spinner

        # FORCE_COLOR makes a file look like a terminal to rich; nothing should move there.
        self._console = console or Console(force_interactive=None if sys.stdout.isatty() else False)
        self._live: Live | None = None
        self._file = None if quiet else (directory / LOG).open("a", buffering=1)
        self._quiet = quiet
        self._formats, self._by_turn = formats(shown.formats), shown.by_turn
        self._total, self._step, self._first = total_steps, started_at, started_at
        self._pace = Pace(total_steps)
        self._stages: list[Activity] = [Activity("starting")]
        self._values: Mapping[str, float] = {}
        self._widths: dict[str, int] = {}
        self._plain = not self._console.encoding.startswith("utf")
        self._detailed = False  # whether a line of the live ones is for details
        self._spinner = Spinner("line" if self._plain else "dots", style="cyan")
        self._began = time.monotonic()
        self._over = False

    # ---------------------------------------------------------------- what the loop says

    def note(self, text: str) -> None:
        """Tell something: a line, or several."""
        self.record(text)
        self._print(text, soft_wrap=True)

    def record(self, text: str) -> None:
        """Write to train.log what was printed before there was a display, such as the plan."""
        if self._file is not None:
            stamp = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            self._file.write("".join(f"{stamp} {row}\n" for row in text.splitlines()))

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """`step` steps are done, and their values were fetched from the devices."""
        self._stages[0].name = "training"
        self._step, self._values = step, values
        self._pace.reach(step)
        text = line(f"step {step}/{self._total}", values, self._formats)
        if (left := self._pace.left()) is not None and step < self._total:
            text += f" | {duration(left)} left"
        self.record(text)
        if self._live is None:
            self._print(text)

    def validation(self, step: int, values: Mapping[str, float]) -> None:
        """The values of a validation after `step` steps; margin and accuracy by turn in lines of their own."""
        text = "\n".join([line(f"validation at step {step}", values, self._formats), *by_turn(values, self._by_turn)])
        self.record(text)
        self._print(text if self._live is None else folded(text, self._console.width), soft_wrap=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """What the run does inside the block, if not training: its time is no step's time.

        Gives a function (done, total) that moves the bar, and prints about ten lines where there is no terminal.
        COMPILING is the stage of the first step, and at its end it says how long that took.
        """
        stage = Activity(name)
        self._stages.append(stage)
        began = time.monotonic()

        def progress(done: int, total: int) -> None:
            stage.done, stage.total = done, total
            if done == total or done % max(1, total // 10) == 0:
                text = f"{name}: {done}/{total} batches"
                self.record(text)
                if self._live is None:
                    self._print(text)

        try:
            yield progress
        finally:
            self._stages.remove(stage)
            self._pace.rest(time.monotonic() - began)
        if name == COMPILING:
            self._stages[0].name, self._step = "training", self._first + 1
            self._pace.start(self._step)
            self.note(f"compiled, and the first step done, in {duration(time.monotonic() - began)}")

    @contextmanager
    def part(self, name: str, describe: Callable[[], str]) -> Iterator[None]:
        """What the run does inside the block, its time being that of a step or of the stage around it.

        `describe()` says how far it is; it is called from other threads. On a terminal that is a live line, and every
        `seconds_between_lines()` it is a line of train.log and, without a terminal, of the output.
        """
        part = Activity(name, describe=describe)
        self._stages.append(part)
        self._detailed = True
        over, began, every = threading.Event(), time.monotonic(), seconds_between_lines()

        def speak() -> None:
            while not over.wait(every):
                text = f"{name}, {duration(time.monotonic() - began)}: {describe() or 'starting'}"
                self.record(text)
                if self._live is None:
                    self._print(text)

        speaking = threading.Thread(target=speak, name="display", daemon=True)
        speaking.start()
        try:
            yield
        finally:
            over.set()
            speaking.join()
            self._stages.remove(part)

    # ---------------------------------------------------------------- where it goes

    def __enter__(self) -> Display:
        if not self._quiet and self._console.is_interactive:
            from rich.live import Live

            self._live = Live(get_renderable=self._picture, console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if self._live is not None:
            ending = "ended" if kind is not None else "done" if self._step >= self._total else "stopped"
            self._over, self._stages = True, [Activity(ending)]
            self._live.stop()
            self._live = None
        if self._file is not None:
            if kind is not None:
                self.record(" ".join(f"ended by {kind.__name__}: {error}".split()))
            self._file.close()
            self._file = None

    def _print(self, text: str, *, soft_wrap: bool = False) -> None:
        if self._quiet:
            return
        if self._live is None:
            click.echo(text)
        else:
            self._console.print(text, markup=False, highlight=False, soft_wrap=soft_wrap)

    # ---------------------------------------------------------------- the live lines

    def _picture(self) -> RenderableType:
        """Activity, bar and clocks in one line; labels and values in the next two. Fits any width without wrapping."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        stage = self._stages[-1]
        # Before the first step the bar is that of the stage; later it stays with the steps, whatever else is done.
        before = stage.total is not None and self._step == self._first
        done, total = (stage.done, stage.total or 1) if before else (self._step, self._total)
        clocks = f"{duration(time.monotonic() - self._began)} gone"
        if (left := self._pace.left()) is not None and not self._over:
            clocks += f", {duration(left)} left"
        top = Table.grid(padding=(0, 1), expand=True)
        for ratio in (None, None, 1, None, None):
            top.add_column(ratio=ratio, no_wrap=True)
        top.add_row(
            Text("*" if self._plain else "●", "green" if stage.name == "done" else "yellow")
            if self._over
            else self._spinner,
            Text(f"{stage.name:<10}", "bold"),  # as wide as `validating`, so that the bar does not jump
            ProgressBar(total=total, completed=done),
            Text(f"{done:,}/{total:,}"),
            Text(clocks, "dim"),
        )
        detail = [Text(stage.describe(), "dim", no_wrap=True, overflow="ellipsis")] if self._detailed else []
        return Group(top, *detail, *self._table(self._console.width))

    def _table(self, width: int) -> list[RenderableType]:
        from rich.text import Text

        labels, values = Text(no_wrap=True, style="dim"), Text(no_wrap=True)
        used = 0
        for name, form in self._formats.items():
            if name not in self._values:
                continue
            label, number = re.sub(r" ?\{.*\} ?", "", form), re.search(r"\{.*\}", form)
            assert number is not None
            text = number.group().format(self._values[name])
            # A column never gets narrower again: numbers that jump to and fro cannot be read.
            size = self._widths[name] = max(len(label), len(text), self._widths.get(name, 0))
            if used + size > width:
                break  # the columns are ordered by how much they matter
            labels.append(label.rjust(size) + "   ")
            values.append(text.rjust(size) + "   ")
            used += size + 3
        for row in (labels, values):
            row.rstrip()
        return [labels, values] if used else []


@dataclass
class Activity:
    """What a run is doing, and how far it is with it where that is known."""

    name: str
    done: int = 0
    total: int | None = None
    describe: Callable[[], str] = str  # how far, in words


class Pace:
    """The time that the rest of a run will take, from its last readings; the step that compiles is left out."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic, readings: int = 20):
        self._total, self._clock = total, clock
        self._recent: deque[tuple[int, float]] = deque(maxlen=readings)  # steps and seconds between two readings
        self._step: int | None = None
        self._first, self._at, self._rested, self._rested_in_all = 0, 0.0, 0.0, 0.0

    def start(self, step: int) -> None:
        """`step` steps are done, and the next ones run at the usual pace."""
        self._step = self._first = step
        self._at, self._rested, self._rested_in_all = self._clock(), 0.0, 0.0

    def rest(self, seconds: float) -> None:
        """So much of the time since the last reading was not spent on steps."""
        self._rested += seconds
        self._rested_in_all += seconds

    def reach(self, step: int) -> None:
        """`step` steps are done by now."""
        if self._step is None:
            self.start(step)
            return
        now = self._clock()
        if step > self._step:
            self._recent.append((step - self._step, max(now - self._at - self._rested, 0.0)))
        self._step, self._at, self._rested = step, now, 0.0

    def left(self) -> float | None:
        """Seconds to the last step, None before there are two readings.

        Validations and saves count as they did so far, spread over the steps.
        """
        if self._step is None or not self._recent:
            return None
        steps = sum(count for count, _ in self._recent)
        each = sum(seconds for _, seconds in self._recent) / steps
        rest = self._rested_in_all / max(self._step - self._first, 1)
        since = self._clock() - self._at - self._rested
        return max((self._total - self._step) * (each + rest) - since, 0.0)


def folded(text: str, width: int) -> str:
    """Lines of readings broken between values where they are longer than `width`."""
    rows: list[str] = []
    for row in text.splitlines():
        first, *parts = row.split(" | ")
        rows.append(first)
        for part in parts:
            if len(rows[-1]) + 3 + len(part) <= width:
                rows[-1] += f" | {part}"
            else:
                rows.append(f"  {part}")
    return "\n".join(rows)


def by_turn(values: Mapping[str, float], forms: Mapping[str, str]) -> list[str]:
    """The statistics in `forms` by turn as aligned lines, TURNS turns in each; none where no value is by turn."""
    found: dict[str, dict[int, float]] = {name: {} for name in forms}
    for key, value in values.items():
        name, _, turn = key.partition("/turn_")
        if name in found and turn.isdecimal():
            found[name][int(turn)] = value
    found = {name: turns for name, turns in found.items() if turns}
    last = max((max(turns) for turns in found.values()), default=0)
    lines = []
    for start in range(1, last + 1, TURNS):
        turns = range(start, min(start + TURNS, last + 1))
        lines.append("  by turn  " + "".join(f"{turn:>6}" for turn in turns))
        for name, seen in found.items():
            cells = (forms[name].format(seen[turn]) if turn in seen else "-" for turn in turns)
            lines.append(f"  {name:<9}" + "".join(f"{cell:>6}" for cell in cells))
    return lines


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 0:07, 12:30, 3:04:05, 2 d 03 h."""
    whole = round(seconds)
    if whole >= 86_400:
        return f"{whole // 86_400} d {whole % 86_400 // 3600:02} h"
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
