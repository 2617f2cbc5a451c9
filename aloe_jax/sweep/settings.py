"""Settings of `python -m aloe_jax.sweep`, with their defaults."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from aloe_jax.ranges import PathText, Seed
from aloe_jax.settings import Section

RESERVED = ("benchmark", "compiled", "configs")  # what else is in the output
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")
_OURS = ("output", "seed")  # settings of a run that the sweep gives


class SweepTraining(Section):
    """One training of the line, and what differs in it from its config."""

    config: PathText  # of aloe_jax.train
    start: str | None = None  # an earlier training: it starts from that one's run of the same seed (model.path)
    once: bool = False  # trained once, with the config's seed, for all seeds of what starts from it
    set: dict[str, object] = Field(default_factory=dict)  # dotted setting -> its value here, as in {steps: 100}
    # Dotted setting -> several values: every combination is a recipe of its own, as in {dpo.beta: [0.1, 0.3]}.
    vary: dict[str, Annotated[tuple[object, ...], Field(strict=False)]] = Field(default_factory=dict)


class SweepEvaluation(Section):
    """The benchmark of all runs: a model of its config with a training's name or output stands for all runs of it."""

    config: PathText  # of aloe_jax.evaluate
    set: dict[str, object] = Field(default_factory=dict)


class SweepSettings(Section):
    """`python -m aloe_jax.sweep`."""

    output: PathText  # a directory on the disk: NAME-sSEED/ of every run, benchmark/, report.html
    seeds: tuple[Seed, ...] = Field(default=(0, 1, 2), strict=False, min_length=1, max_length=1000)
    train: dict[str, SweepTraining] = Field(min_length=1)  # in the order in which they are trained
    evaluate: SweepEvaluation | None = None  # None: train only

    @model_validator(mode="after")
    def _consistent(self) -> SweepSettings:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} names one twice; a run is trained once with a seed")
        before: dict[str, SweepTraining] = {}
        for name, training in self.train.items():
            where = f"train.{name}"
            if not _NAME.fullmatch(name) or name in RESERVED:
                raise ValueError(
                    f"{where}: is the name of directories: letters, digits, '.', '_' and '-', and none of "
                    f"{', '.join(RESERVED)}"
                )
            if (start := training.start) is not None:
                if start not in before:
                    known = ", ".join(before) or "none"
                    raise ValueError(f"{where}.start: {start} is no training before {name}; there are: {known}")
                if training.once and not before[start].once:
                    raise ValueError(f"{where}.once: it starts from {start}, which has a run for every seed")
            self._check_changes(where, training)
            before[name] = training
        return self

    def _check_changes(self, where: str, training: SweepTraining) -> None:
        taken = (*_OURS, *(("model.path",) if training.start is not None else ()))
        for part, changes in (("set", training.set), ("vary", training.vary)):
            for key in changes:
                if key in taken:
                    raise ValueError(f"{where}.{part}.{key}: is what the sweep gives to every run; leave it out")
        for key, values in training.vary.items():
            if len({json.dumps(value, sort_keys=True) for value in values}) < max(1, len(values)):
                raise ValueError(f"{where}.vary.{key}: give several different values")
            if key in training.set:
                raise ValueError(f"{where}.vary.{key}: is in {where}.set, too; give it in one of them")


def overrides(changes: Mapping[str, object]) -> list[str]:
    """Dotted settings and values as `section.key=value`, which `load_settings` reads."""
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]
