"""From the settings of a sweep to its runs: which trainings with which settings, and which models are evaluated."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aloe_jax.benchmark.settings import EvaluateSettings
from aloe_jax.errors import AloeError
from aloe_jax.settings import load_settings
from aloe_jax.storage.files import is_remote
from aloe_jax.sweep.settings import SweepEvaluation, SweepSettings, SweepTraining, overrides
from aloe_jax.training.settings import TrainSettings


@dataclass(frozen=True)
class SweepRun:
    """One training of a sweep. `name` is that of its directory and of its model in the benchmark."""

    name: str
    training: str  # its name in the settings
    variant: str  # what of its settings, and of those of the runs it starts from, is varied; nothing where nothing is
    seed: int | None  # None: trained once for all seeds
    start: str | None  # the run it starts from
    config: str  # where its settings come from
    settings: TrainSettings


@dataclass(frozen=True)
class SweepPlan:
    """All runs in the order in which they are trained, and the benchmark of them."""

    output: Path
    runs: tuple[SweepRun, ...]
    evaluation: EvaluateSettings | None


def plan_of(settings: SweepSettings) -> SweepPlan:
    """All runs of a sweep, those of the first seed first, with settings that are valid by themselves.

    Raises AloeError naming the config and the setting that is wrong.
    """
    if is_remote(settings.output):
        raise AloeError(
            f"output: {settings.output} is in a bucket; a sweep is written to a disk, give a directory there"
        )
    output = Path(settings.output)
    found: dict[str, SweepRun] = {}
    for seed, (name, training) in itertools.product(settings.seeds, settings.train.items()):
        starts: list[SweepRun | None] = [None]
        if training.start is not None:
            starts = [run for run in found.values() if run.training == training.start and run.seed in (seed, None)]
        for start, changes in itertools.product(starts, _variants(training.vary)):
            run = _run(output, name, training, None if training.once else seed, start, changes)
            other = found.setdefault(run.name, run)
            if other.settings != run.settings:
                raise AloeError(f"train.{name}.vary: two variants would be called {run.name}; give one another name")
    runs = tuple(found.values())
    evaluation = None if settings.evaluate is None else _evaluation(output, settings.evaluate, runs)
    return SweepPlan(output, runs, evaluation)


def _variants(vary: Mapping[str, Sequence[object]]) -> list[dict[str, object]]:
    return [dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())]


def _run(
    output: Path,
    name: str,
    training: SweepTraining,
    seed: int | None,
    start: SweepRun | None,
    changes: Mapping[str, object],
) -> SweepRun:
    parts = [*([start.variant] if start is not None and start.variant else []), *map(_part, changes.items())]
    variant = "-".join(parts)
    full = "-".join([name, *parts, *([] if seed is None else [f"s{seed}"])])
    values: dict[str, object] = {**training.set, **changes, "output": str(output / full)}
    if seed is not None:
        values["seed"] = seed
    if start is not None:
        values["model.path"] = str(output / start.name)
    settings = load_settings(TrainSettings, training.config, overrides(values))
    return SweepRun(full, name, variant, seed, start.name if start else None, training.config, settings)


def _part(change: tuple[str, object]) -> str:
    """A varied setting in the name of a directory: `beta_0.1`."""
    key, value = change
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", f"{key.rpartition('.')[2]}_{text}").strip("_")[:60]


@dataclass(frozen=True)
class _Evaluated:
    """A run as a model of the benchmark."""

    name: str
    path: str
    seed: int | None


def _evaluation(output: Path, evaluation: SweepEvaluation, runs: Sequence[SweepRun]) -> EvaluateSettings:
    """The settings of the benchmark, with every model that has the name of a training replaced by its runs.

    Other models of the same path, which are its controls, are replaced likewise.
    """
    changes = overrides({**evaluation.set, "output": str(output / "benchmark")})
    settings = load_settings(EvaluateSettings, evaluation.config, changes)
    trainings = {run.training for run in runs}
    paths: dict[str | None, str] = {
        one.path: name for name, one in settings.models.items() if name in trainings and one.path is not None
    }
    if not trainings & settings.models.keys():
        raise AloeError(
            f"{evaluation.config}: models: none has the name of a training of the sweep "
            f"({', '.join(dict.fromkeys(run.training for run in runs))}), so that nothing of it would be evaluated; "
            "give one such a name"
        )
    evaluated: dict[str, list[_Evaluated]] = {}
    models: dict[str, object] = {}
    for name, candidate in settings.models.items():
        training = name if name in trainings else paths.get(candidate.path)
        values = candidate.model_dump(exclude_none=True)
        added: dict[str, object] = {name: values}
        if training is not None:
            evaluated[name] = [
                _Evaluated(f"{name}{run.name.removeprefix(training)}", str(output / run.name), run.seed)
                for run in runs
                if run.training == training
            ]
            added = {one.name: {"sees": candidate.sees, "path": one.path} for one in evaluated[name]}
        if twice := models.keys() & added.keys():
            raise AloeError(f"{evaluation.config}: models.{twice.pop()}: is the name of a run, too; rename the model")
        models |= added
    pairs = [pair for first, second in settings.judging.pairs for pair in _pairs(first, second, evaluated)]
    dumped = settings.model_dump()
    dumped |= {"models": models, "judging": {**dumped["judging"], "pairs": pairs}}
    return EvaluateSettings.model_validate(dumped)


def _pairs(first: str, second: str, evaluated: Mapping[str, Sequence[_Evaluated]]) -> list[tuple[str, str]]:
    """Two models to compare side by side as pairs of runs: of the same seed, where both have one."""
    left: Sequence[_Evaluated | None] = evaluated.get(first, (None,))
    right: Sequence[_Evaluated | None] = evaluated.get(second, (None,))
    return [
        (one.name if one else first, other.name if other else second)
        for one, other in itertools.product(left, right)
        if one is None or other is None or None in (one.seed, other.seed) or one.seed == other.seed
    ]
