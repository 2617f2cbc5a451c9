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
from aloe_jax.sweep.trained_models import trained_models
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
    notes: tuple[str, ...] = ()  # what of the benchmark's config is left out, and why


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
    if settings.evaluate is None:
        return SweepPlan(output, runs, None)
    return SweepPlan(output, runs, *_evaluation(output, settings.evaluate, settings.train, runs))


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
    given: dict[str, object] = {**training.set, **changes, "output": str(output / full)}
    if seed is not None:
        given["seed"] = seed
    if start is not None:
        given["model.path"] = str(output / start.name)
    settings = load_settings(TrainSettings, training.config, overrides(given))
    return SweepRun(full, name, variant, seed, start.name if start else None, training.config, settings)


def _part(change: tuple[str, object]) -> str:
    """A varied setting in the name of a directory: `beta_0.1`."""
    key, value = change
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", f"{key.rpartition('.')[2]}_{text}").strip("_")[:60]


def _evaluation(
    output: Path, evaluation: SweepEvaluation, train: Mapping[str, SweepTraining], runs: Sequence[SweepRun]
) -> tuple[EvaluateSettings, tuple[str, ...]]:
    """The settings of the benchmark, with a model of every run for each that stands for trainings, and notes.

    A model of a run that sees something else than the history has a name that says so: `dpo-s0-last_message`.
    """
    changes = overrides({**evaluation.set, "output": str(output / "benchmark")})
    given = load_settings(EvaluateSettings, evaluation.config, changes)
    found = trained_models(evaluation.config, given, train)
    if not found.trainings:
        raise AloeError(
            f"{evaluation.config}: models: none has the name of a training of the sweep ({', '.join(train)}) or the "
            "output of its config as path, so that nothing of it would be evaluated; give one such a name"
        )
    models: dict[str, object] = {}
    of: dict[str, dict[str, SweepRun]] = {}  # model of the config -> name of a model of the benchmark -> its run
    for name, candidate in given.models.items():
        if name in found.left_out:
            continue
        added: dict[str, object] = {name: candidate.model_dump(exclude_none=True)}
        if name in found.trainings:
            suffix = "" if candidate.sees == "history" else f"-{candidate.sees}"
            trainings = found.trainings[name]
            of[name] = {run.name + suffix: run for run in runs if run.training in trainings}
            added = {one: {"path": str(output / run.name), "sees": candidate.sees} for one, run in of[name].items()}
        if twice := sorted(models.keys() & added.keys()):
            raise AloeError(
                f"{evaluation.config}: models.{name}: there is another model {twice[0]} in the benchmark; rename this "
                "one, or leave it out where both stand for the same runs"
            )
        models |= added
    pairs, notes = [], [f"models.{name}: {why}" for name, why in found.left_out.items()]
    for first, second in given.judging.pairs:
        if gone := sorted({first, second} & found.left_out.keys()):
            notes.append(f"judging.pairs: {first} and {second} are not compared, because {gone[0]} is left out")
        else:
            pairs += _pairs(of.get(first, {first: None}), of.get(second, {second: None}))
    values = given.model_dump()
    values |= {"models": models, "judging": {**values["judging"], "pairs": pairs}}
    return EvaluateSettings.model_validate(values), tuple(notes)


def _pairs(left: Mapping[str, SweepRun | None], right: Mapping[str, SweepRun | None]) -> list[tuple[str, str]]:
    """Two models to compare side by side as pairs: of the same seed, where both have one.

    A model and its control are compared run by run.
    """

    def belong(one: SweepRun | None, other: SweepRun | None) -> bool:
        if one is None or other is None:
            return True
        if one.training == other.training:
            return one is other
        return None in (one.seed, other.seed) or one.seed == other.seed

    both = itertools.product(left.items(), right.items())
    return [(first, second) for (first, one), (second, other) in both if belong(one, other)]
