"""What every benchmark against peers shares: who takes part, with which settings, the tables, and the wanted ratios."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from tests.benchmarks.peers.contest import Contestant, Ratio, Side, check_quiet, compete, ready, speed_ratio, table
from tests.benchmarks.peers.task import Task


@dataclass(frozen=True)
class Verdict:
    """One wanted ratio and what was found."""

    what: str
    found: Ratio
    bound: float
    at_least: bool

    @property
    def met(self) -> bool:
        """Whether it is on the wanted side."""
        return self.found.median >= self.bound if self.at_least else self.found.median <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{'ok    ' if self.met else 'MISSED'} {self.what}: {self.found}, wanted {sign} {self.bound:.2f}"


@dataclass
class Session:
    """What is common to all parts of a run; `wanted` says how many times as fast as each we want to be."""

    only: frozenset[str]
    rounds: int
    cores: int
    wanted: Mapping[str, float]
    verdicts: list[Verdict] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)

    def wants(self, contestant: Contestant) -> bool:
        """Ours always takes part: the ratios are to it."""
        return not self.only or contestant.name in self.only or contestant.name.startswith("ours")

    def sides(self, contestants: Sequence[Contestant], task: Task, rounds: int) -> AbstractContextManager[list[Side]]:
        """Those contestants that take part, ready for so many rounds."""
        return ready([each for each in contestants if self.wants(each)], task, rounds, self.cores)

    def fastest(self, variants: Sequence[Contestant], task: Task) -> Contestant:
        """The fastest of several settings of one contestant, in two rounds of each."""
        found = {}
        for at, variant in enumerate(variants):
            with ready([variant], task, 2, self.cores) as sides:
                compete(sides, range(2))
            found[at] = max(sides[0].rates())
        return variants[max(found, key=lambda at: found[at])]

    def report(self, title: str, sides: Sequence[Side], unit: str) -> None:
        """The table of a part, and its records for --json."""
        click.echo("\n".join(["", title, *table(sides[0], sides, unit), ""]))
        for side in sides:
            self.results.append(
                {
                    "part": title,
                    "contestant": side.contestant.name,
                    "settings": dict(side.contestant.request),
                    "vocab": side.task.vocab,
                    "turns": side.task.turns,
                    "made": side.made,
                    "peak": side.peak,
                    "step_peak": side.step_peak,
                    "rounds": side.records,
                    "ours_faster_by": speed_ratio(sides[0], side).values if side is not sides[0] else None,
                }
            )

    def judge_speed(self, sides: Sequence[Side], where: str) -> None:
        """The wanted ratios of a table; `where` ends what is said of them."""
        for side in sides[1:]:
            what = f"speed against {side.contestant.title}{where}"
            wanted = self.wanted[side.contestant.name]
            self.verdicts.append(Verdict(what, speed_ratio(sides[0], side), wanted, at_least=True))

    def write(self, output: Path | None) -> None:
        """All figures as JSON, where a file was asked for."""
        if output is not None:
            verdicts = [
                {"what": each.what, "found": each.found.values, "bound": each.bound, "met": each.met}
                for each in self.verdicts
            ]
            output.write_text(json.dumps({"verdicts": verdicts, "results": self.results}, indent=1))

    def conclude(self, seconds: float) -> None:
        """Print the wanted ratios. Raises ClickException when one is missed."""
        click.echo("\n".join(map(str, self.verdicts)))
        click.echo(f"took {seconds / 60:.1f} minutes")
        if missed := [verdict for verdict in self.verdicts if not verdict.met]:
            raise click.ClickException(f"{len(missed)} of {len(self.verdicts)} wanted ratios missed")


def chosen(only: str, contestants: Sequence[Contestant]) -> frozenset[str]:
    """The names in `only`, by comma, with their environments installed. Raises BadParameter for unknown ones."""
    names = frozenset(filter(None, only.split(",")))
    known = {contestant.name for contestant in contestants}
    if names - known:
        raise click.BadParameter(f"{', '.join(sorted(names - known))}; known: {', '.join(sorted(known))}")
    for contestant in contestants:
        if contestant.environment is not None and (not names or contestant.name in names):
            contestant.environment.python()
    return names


def take_cores(cores: int, busy: bool) -> None:
    """Keep to so many cores, and what is started, too. Raises ClickException where the machine is not quiet."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    check_quiet(busy)
