"""Which models of a benchmark's config stand for trainings of a sweep, and which are left out of its benchmark.

A model stands for a training that it has the name of, or whose config has its path as output; so does a control of such
a model. What a training beside them writes that the sweep does not train (the demo's RL in a sweep of its DPO) is left
out: it would be one more model under test, of another line and perhaps of other settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aloe_jax.benchmark.settings import CandidateSettings, EvaluateSettings
from aloe_jax.errors import AloeError
from aloe_jax.storage.files import as_path, is_remote, resolved
from aloe_jax.sweep.settings import SweepTraining
from aloe_jax.yaml_text import LARGEST, parse_yaml


@dataclass(frozen=True)
class TrainedModels:
    """Both by the names of models in the benchmark's config."""

    trainings: Mapping[str, tuple[str, ...]]  # those that a model stands for; models that stay as they are are not here
    left_out: Mapping[str, str]  # why


def trained_models(config: str, given: EvaluateSettings, train: Mapping[str, SweepTraining]) -> TrainedModels:
    """What the models of `given`, which `config` holds, are to the trainings of a sweep.

    Raises AloeError naming the model that could be two things: by its name one training, by its path another.
    """
    outputs: dict[str, list[str]] = {}  # of the trainings' configs
    for name, training in train.items():
        if (output := _output(as_path(training.config), any_stage=True)) is not None:
            outputs.setdefault(_location(output), []).append(name)
    paths = {name: _location(one.path) for name, one in given.models.items() if one.path is not None}
    called: dict[str, str] = {}
    for name, candidate in given.models.items():
        if name in train and candidate.path is None:
            raise AloeError(
                f"{config}: models.{name}: has the name of a training, and no path; a model with such a name stands "
                "for its runs: rename the model"
            )
        if (training_name := _called(name, candidate, paths, outputs, train)) is None:
            continue
        owners = outputs.get(paths[name], [training_name])
        if training_name not in owners:
            raise AloeError(
                f"{config}: models.{name}: has the name of training {training_name} and the path of {owners[0]} "
                f"({candidate.path}); rename the model, or give it its own path"
            )
        called[name] = training_name
    shared: dict[str, list[str]] = {}  # by the path of a model with the name of a training: of its controls, too
    for name, training_name in called.items():
        if given.models[name].under_test:
            shared.setdefault(paths[name], []).append(training_name)
    beside = _outputs_beside([config, *(training.config for training in train.values())])
    trainings: dict[str, tuple[str, ...]] = {}
    left_out: dict[str, str] = {}
    for name, path in paths.items():
        own = [called[name]] if name in called else outputs.get(path) or shared.get(path)
        if own:
            trainings[name] = tuple(own)
        elif path in beside:
            left_out[name] = (
                f"{given.models[name].path} is the output of {beside[path]}, which this sweep does not train: left out "
                "of the benchmark; add that config to train (once: true trains it once), or give an export of the model"
            )
    return TrainedModels(trainings, left_out)


def _called(
    name: str,
    candidate: CandidateSettings,
    paths: Mapping[str, str],
    outputs: Mapping[str, list[str]],
    train: Mapping[str, SweepTraining],
) -> str | None:
    """The training of whose name a model's is: the same, or for a control that of its model and what it sees."""
    if name in train:
        return name
    model = name.removesuffix(f"-{candidate.sees}")
    if candidate.path is None or candidate.sees == "history" or model not in train:
        return None
    path = paths[name]
    return model if path == paths.get(model) or model in outputs.get(path, ()) else None


def _outputs_beside(configs: Iterable[str]) -> dict[str, str]:
    """The outputs of all configs of trainings in the directories of these: output -> config."""
    found: dict[str, str] = {}
    for directory in dict.fromkeys(as_path(config).parent for config in configs):
        for file in sorted([*directory.glob("*.yaml"), *directory.glob("*.yml")]):
            if (output := _output(file)) is not None:
                found.setdefault(_location(output), str(file))
    return found


def _output(config: Path, any_stage: bool = False) -> str | None:
    """The output of a config of aloe_jax.train, which names a stage; None for other files and unreadable ones.

    `any_stage`: it is known to be one.
    """
    try:
        with config.open("rb") as stream:
            values = parse_yaml(stream.read(LARGEST + 1))
        if not isinstance(values, dict) or not (any_stage or isinstance(values.get("stage"), str)):
            return None
        output = values.get("output")
        return output if isinstance(output, str) and isinstance(_location(output), str) else None
    except (OSError, AloeError):
        return None


def _location(path: str) -> str:
    """The same text for the same directory. Raises AloeError for a path that is neither on a disk nor in a bucket."""
    return path.rstrip("/") if is_remote(path) else str(resolved(path))
