"""What a stage of training decides; everything else of a run is the same for all stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import ClassVar

import jax
from jax.sharding import Mesh

from aloe_jax.data.loader import Batch
from aloe_jax.data.packing import Rows
from aloe_jax.data.selection import Selection
from aloe_jax.data.sources import Split
from aloe_jax.models.spec import ModelParts, ModelSpec, Parameters
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages import STAGES
from aloe_jax.training.totals import Objective


@dataclass(frozen=True)
class StartingModel:
    """The model as it is before the first step, for what a stage computes with it once."""

    directory: Path  # of the run
    parts: ModelParts  # the first step donates what is trained of it
    digest: Callable[[], str]  # of its weights and of what else decides its log-probs
    logps: Callable[[Batch], jax.Array]  # a batch of rows on the host -> log-probs [B, R] in nats, in every process
    token_logps: Callable[[Parameters, Batch], jax.Array]  # the same of every scored token [B, S], of any weights
    ending: Callable[[], str | None]  # the signal that asks for the end of the run, None where none came
    note: Callable[[str], None]  # a line for a person, on the terminal and in train.log
    # Shows that something is computed: the block is given (done, total) -> None, which moves a bar.
    progress: Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


@dataclass(frozen=True)
class Watched:
    """What a person watches of a stage's statistics, beside loss, learning rate, gradient norm and speed."""

    formats: Mapping[str, str]  # statistic -> how it is printed, such as "margin {:+.3f}"
    by_turn: Mapping[str, str] = field(default_factory=dict)  # the same of a table by turn after each validation


@dataclass(frozen=True)
class Phase:
    """What a stage does between two updates: bytes of one device that it works with, by what is in them."""

    working: Mapping[str, int]
    mend: str  # which settings make it smaller, as in "lower rl.draw.rows"


@dataclass(frozen=True)
class MemoryBeside:
    """Bytes of one device that a stage takes beside its updates."""

    state: Mapping[str, int] = field(default_factory=dict)  # all the time, by what is in them
    between: Mapping[str, Phase] = field(default_factory=dict)  # as in "replies are drawn"


class Stage(ABC):
    """One way to learn from conversation trees; `shown` is what a person watches of it."""

    shown: ClassVar[Watched]
    entropy: ClassVar[bool] = False  # whether its objective reads entropies
    gaps: ClassVar[bool] = False  # whether parts of a batch may be without a reply

    def __init__(self, settings: TrainSettings):
        """Raises AloeError where settings of the stage contradict each other."""
        self.settings = settings

    @property
    @abstractmethod
    def selection(self) -> Selection:
        """Which replies of a tree are scored."""

    @abstractmethod
    def objective(self, turns: int = 0) -> Objective:
        """What is minimised, and the statistics beside it; by turn for turns 1 to `turns` (0: not by turn)."""

    @property
    def updates(self) -> int:
        """How many optimizer updates are made on every batch."""
        return 1

    def describe(self) -> str:
        """What was minimised, in a phrase for the model card."""
        return self.settings.stage.upper()

    def row_arrays(self, rows: Rows) -> dict[str, jax.ShapeDtypeStruct]:
        """Further arrays that a batch has beside those of `rows`: name -> shape and type for one row."""
        return {}

    def memory_beside(self, spec: ModelSpec, mesh: Mesh) -> MemoryBeside:
        """What the stage takes on a device of a mesh beside its updates; the settings are resolved."""
        return MemoryBeside()

    def compute_row_arrays(self, model: StartingModel, rows: Mapping[Split, Rows]) -> Mapping[Split, Batch]:
        """The values of `row_arrays` for all rows [N, ...] of every split, computed before the first step."""
        return {}


def stage_of(settings: TrainSettings) -> Stage:
    """The stage that `settings` ask for. Raises AloeError where its settings contradict each other."""
    entry = STAGES[settings.stage]
    made: Stage = getattr(import_module(entry.module), entry.name)(settings)
    return made
