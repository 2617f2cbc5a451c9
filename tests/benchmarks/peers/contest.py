"""Contestants in processes of their own that take turns on an otherwise quiet machine."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import click

from tests.benchmarks.peers.environments import BENCH, ROOT, Environment
from tests.benchmarks.peers.task import Task

Record = dict[str, Any]
SETTLE = 1.0  # seconds before a turn: threads of the one before may still spin for a while
BUSY = 0.05  # the share of the machine that others may use
UNITS = ("pairs", "targets", "replies")  # what a round may count
AGREE = 1e-4  # how far two losses of the same pairs may differ


@dataclass(frozen=True)
class Contestant:
    """A trainer with its settings."""

    name: str
    title: str
    module: str  # in this package
    environment: Environment | None  # None: the project's own
    request: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)


class Side:
    """A running contestant."""

    def __init__(self, contestant: Contestant, task: Task, cores: int):
        self.contestant, self.task = contestant, task
        self.records: list[Record] = []
        python = sys.executable if contestant.environment is None else str(contestant.environment.python())
        self.log = BENCH / "logs" / f"{contestant.name}-{task.vocab}-{task.turns}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [python, "-m", f"tests.benchmarks.peers.{contestant.module}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env=os.environ | for_training(cores) | {"TMPDIR": task.directory} | dict(contestant.variables),
            )

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill() if kind else self._tell({"do": "quit"})
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, what: str, **details: Any) -> Record:
        """Send a request and wait for its answer. Raises ClickException with what the contestant said."""
        self._tell({"do": what} | details)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"ended with status {self._process.wait()}"}
        if "error" in answer:
            raise click.ClickException(f"{self.title}: {what}: {answer['error']}; see {self.log}")
        return answer

    def prepare(self, rounds: int) -> None:
        """Load and compile; tells what it has made of the task."""
        start = time.perf_counter()
        request = dict(self.contestant.request)
        self.made = self.ask("prepare", task=asdict(self.task), rounds=rounds, **request)
        self.made |= self.ask("warm")
        facts = ", ".join(
            f"{key} {value:,.3g}" if isinstance(value, float) else f"{key} {value:,}"
            for key, value in self.made.items()
            if key in ("tokens", "targets", "pairs", "rows", "length", "fill")
        )
        click.echo(f"  {self.title}: ready in {time.perf_counter() - start:.0f} s ({facts})")

    def turn(self, number: int) -> Record:
        """One round, with what the rest of the machine did meanwhile."""
        time.sleep(SETTLE)
        before = machine_seconds()
        record = self.ask("round", number=number)
        after = machine_seconds()
        foreign = None
        if before and after:
            foreign = max(0.0, after - before - record["cpu"]) / record["wall"] / len(os.sched_getaffinity(0))
        record |= {"round": number, "foreign": foreign, "done": record[unit_of(record)]}
        self.records.append(record)
        return record

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.contestant.title}, {self.task.turns} turns"

    @property
    def peak(self) -> int:
        """Bytes at its highest, loading and compiling included."""
        return max(self.made["peak"], *(record["peak"] for record in self.records))

    @property
    def step_peak(self) -> int | None:
        """Bytes at its highest in the rounds; None where the system cannot tell that apart."""
        return max(record["peak"] for record in self.records) if self.made["forgotten"] else None

    def rates(self) -> list[float]:
        """What is counted, a second, in every round."""
        return [record["done"] / record["wall"] for record in self.records]

    def _tell(self, request: Record) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer will say that it has ended


def on_cores(count: int) -> dict[str, str]:
    """What lets torch use so many threads, and JAX as many devices, which is faster than one with all cores."""
    devices = f"--xla_force_host_platform_device_count={count}"
    return {"OMP_NUM_THREADS": str(count), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": devices}


def for_training(count: int) -> dict[str, str]:
    """As `on_cores`, with whole vectors of AVX-512 in JAX: LLVM takes half of them by itself, torch does not."""
    variables = on_cores(count)
    return variables | {"XLA_FLAGS": f"{variables['XLA_FLAGS']} --xla_cpu_prefer_vector_width=512"}


@contextlib.contextmanager
def ready(contestants: Sequence[Contestant], task: Task, rounds: int, cores: int) -> Iterator[list[Side]]:
    """Contestants that are ready for so many rounds; each was prepared with the machine to itself.

    Raises ClickException when one fails or does not start with the loss that the first one finds for its pairs.
    """
    with contextlib.ExitStack() as stack:
        sides = []
        for contestant in contestants:
            side = stack.enter_context(Side(contestant, task, cores))
            side.prepare(rounds)
            sides.append(side)
        for side in sides[1:]:
            _agree(sides[0], side)
        yield sides


def _agree(ours: Side, other: Side) -> None:
    theirs = other.made["first"]
    own = ours.ask("check", pairs=theirs["pairs"])["loss"]
    title = other.title
    what = f"the {len(theirs['pairs'])} {theirs.get('of', 'pairs')}"
    click.echo(f"  loss of {what} that {title} starts with: {theirs['loss']:.6f}, ours {own:.6f}")
    if not abs(own - theirs["loss"]) < AGREE:
        raise click.ClickException(f"{title} starts with another loss than ours of the same ones: not the same task")


def compete(sides: Sequence[Side], rounds: range) -> None:
    """Let the sides take turns, in one order and then in the other."""
    for number in rounds:
        for side in sides if number % 2 == 0 else sides[::-1]:
            record = side.turn(number)
            what = unit_of(record)
            disturbed = f", others used {record['foreign']:.0%} of the cores" if (record["foreign"] or 0) > BUSY else ""
            click.echo(
                f"  round {number + 1} {side.title:<42} {record['done'] / record['wall']:9.2f} {what}/s, "
                f"{record['cpu'] / record['done']:.3g} CPU-s each, {record['wall']:.1f} s{disturbed}"
            )


def unit_of(record: Record) -> str:
    """What a round counted."""
    return next(unit for unit in UNITS if unit in record)


@dataclass(frozen=True)
class Ratio:
    """One number over another, round by round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """What is quoted."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({min(self.values):.2f} to {max(self.values):.2f})"


def speed_ratio(ours: Side, theirs: Side, clock: Literal["wall", "cpu"] = "wall") -> Ratio:
    """How many times as much we get done in a second of this clock, in every round that both took part in."""
    mine, other = (
        {record["round"]: record["done"] / record[clock] for record in side.records} for side in (ours, theirs)
    )
    return Ratio(tuple(mine[number] / rate for number, rate in other.items() if number in mine))


def table(ours: Side, sides: Sequence[Side], unit: str) -> list[str]:
    """Medians and ratios as lines."""
    head = (
        f"{'':<42} {unit + '/s':>10} {'range':>17} {'CPU-s each':>11} {'peak GB':>8} {'in steps':>8}  "
        f"{'ours is faster by':<24} in CPU-s"
    )
    lines = [head]
    for side in sides:
        rates = side.rates()
        cpu = statistics.median(record["cpu"] / record["done"] for record in side.records)
        step = f"{side.step_peak / 1e9:8.2f}" if side.step_peak else f"{'':>8}"
        faster = "" if side is ours else f"{speed_ratio(ours, side)!s:<24} {speed_ratio(ours, side, 'cpu').median:.2f}"
        lines.append(
            f"{side.title:<42} {statistics.median(rates):10.2f} {min(rates):8.2f}-{max(rates):8.2f} "
            f"{cpu:11.3g} {side.peak / 1e9:8.2f} {step}  {faster}"
        )
    return lines


def machine_seconds() -> float | None:
    """CPU seconds that the whole machine has been busy, None where that is not told."""
    try:
        fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    except (OSError, ValueError):
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def check_quiet(allow_busy: bool, seconds: float = 5.0) -> None:
    """Look whether the machine does something else. Raises ClickException when it does, unless that is allowed."""
    before = machine_seconds()
    time.sleep(seconds)
    after = machine_seconds()
    load = os.getloadavg()[0]
    if before is None or after is None:
        share = load / (os.cpu_count() or 1)
    else:
        share = (after - before) / seconds / (os.cpu_count() or 1)
    if share <= BUSY:
        return
    told = f"the machine is not quiet: {share:.0%} of its cores are in use (load average {load:.2f})"
    if not allow_busy:
        raise click.ClickException(f"{told}; wait, or pass --busy to measure all the same")
    click.secho(f"WARNING: {told}; no figure below can be trusted", fg="red", err=True)
