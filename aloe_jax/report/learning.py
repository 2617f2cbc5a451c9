"""What the models under test did while they were trained by RL: the records of their runs, as curves over steps."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aloe_jax.errors import AloeError
from aloe_jax.llm.registry import simulates
from aloe_jax.settings import load_settings
from aloe_jax.storage.files import as_path, is_remote
from aloe_jax.training.claim import CONFIG
from aloe_jax.training.metrics import RECORDS
from aloe_jax.training.settings import TrainSettings

POINTS = 20  # of a curve, at most: longer ones are averaged over steps
ENDS = 5  # steps at the beginning and at the end of a run that are compared, at most half of the run

Record = Mapping[str, float]  # a record's numbers, "step" among them
Curve = tuple[tuple[float, float], ...]  # (step, value)


@dataclass(frozen=True)
class Learning:
    """Of one model. `entry` is its number in the report; records are in the order of their steps."""

    entry: int
    simulated: tuple[str, ...]  # "user", "judge": the roles that a script played
    train: tuple[Record, ...]
    validation: tuple[Record, ...]
    watch: tuple[Record, ...]

    @property
    def steps(self) -> int:
        """The last one."""
        return int(self.train[-1]["step"])

    @property
    def ends(self) -> int:
        """How many first and last steps are compared."""
        return max(1, min(ENDS, len(self.train) // 2))

    def curve(self, kind: str, name: str) -> Curve:
        """A number of the records of a kind by step, in at most POINTS points: means, each at its last step."""
        records: tuple[Record, ...] = getattr(self, kind)
        points = [(record["step"], record[name]) for record in records if name in record]
        size = -(-len(points) // POINTS) or 1
        parts = [points[start : start + size] for start in range(0, len(points), size)]
        return tuple((part[-1][0], math.fsum(value for _, value in part) / len(part)) for part in parts)

    def by_turn(self, last: bool) -> list[float | None]:
        """Mean reward by turn over the first steps, or over the last ones."""
        some = self.train[-self.ends :] if last else self.train[: self.ends]
        turns = [int(match[1]) for record in some for name in record if (match := re.fullmatch(_TURN, name))]
        return [self._mean(some, f"reward/turn_{turn:02d}") for turn in range(1, max(turns, default=0) + 1)]

    def change(self, name: str) -> tuple[float | None, float | None]:
        """A number of the training records: the mean of the first steps and of the last ones."""
        return self._mean(self.train[: self.ends], name), self._mean(self.train[-self.ends :], name)

    def first_and_last(self, kind: str, name: str) -> tuple[float | None, float | None]:
        """The values of the first and of the last record of a kind that has such a number."""
        values = [record[name] for record in getattr(self, kind) if name in record]
        return (values[0], values[-1]) if values else (None, None)

    @staticmethod
    def _mean(records: Sequence[Record], name: str) -> float | None:
        values = [record[name] for record in records if name in record]
        return math.fsum(values) / len(values) if values else None


_TURN = r"reward/turn_(\d{2,4})"


def learned(sources: Sequence[Mapping[str, object]]) -> tuple[Learning, ...]:
    """Of the models with these settings in the benchmark, those whose directory is here and has records of RL.

    A directory that several of them name counts once, for the first.
    """
    found: dict[Path, Learning] = {}
    for entry, source in enumerate(sources):
        path = source.get("path")
        if not isinstance(path, str) or is_remote(path) or as_path(path).absolute() in found:
            continue
        records = _records(as_path(path) / RECORDS)

        def of(kind: str, known: Callable[[Record], bool], records: list[tuple[str, Record]] = records) -> list[Record]:
            return [record for name, record in records if name == kind and known(record)]

        if train := of("train", lambda record: "reward" in record):
            validation = of("validation", lambda record: "reward" in record)
            watch = of("watch", lambda record: "watch" in record)
            found[as_path(path).absolute()] = Learning(
                entry, _simulated(as_path(path)), tuple(train), tuple(validation), tuple(watch)
            )
    return tuple(found.values())


def _records(path: Path) -> list[tuple[str, Record]]:
    """(kind, numbers) of every line that is a record; a line that a kill cut short is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if not isinstance(record, dict):
            continue
        numbers = {
            name: float(value)
            for name, value in record.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        }
        if "step" in numbers:
            found.append((str(record.get("kind")), numbers))
    return sorted(found, key=lambda one: one[1]["step"])


def _simulated(directory: Path) -> tuple[str, ...]:
    try:
        roles = load_settings(TrainSettings, directory / CONFIG).roles
    except (AloeError, OSError, ValueError):  # of another version, or gone
        return ()
    return tuple(name for name, role in (("user", roles.user), ("judge", roles.judge)) if simulates(role.provider))
