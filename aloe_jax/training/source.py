"""Where the batches of a run come from: rows of a data set, or whatever a stage draws by itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module

from jax.sharding import Mesh

from aloe_jax.data.loader import Batch
from aloe_jax.data.packing import PackingReport, Rows
from aloe_jax.data.template import ChatTemplate
from aloe_jax.json_value import JSON
from aloe_jax.models.spec import ModelSpec, Parameters
from aloe_jax.training.callback import Callback
from aloe_jax.training.program import TrainingProgram
from aloe_jax.training.reporting import Reporting
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages import STAGES
from aloe_jax.training.stages.stage import Stage, StartingModel
from aloe_jax.training.step_clock import StepTime
from aloe_jax.training.totals import Totals


@dataclass(frozen=True)
class SourceSummary:
    """A source as a person reads of it before the run. Counts of a step are means, or upper bounds."""

    data: str  # what is learned from, in a line or several
    validation: str
    tokens: float  # a step
    pairs: float
    flops: float
    passes: float  # over the data, a step
    parts: Mapping[str, PackingReport]  # of the data, by name of the source
    calls: tuple[str, ...] = ()  # to language models, a line each: how many, and what they cost


class Source(AbstractContextManager["Source"], ABC):
    """Batches by their number, and what a run asks about them. Used as a context manager, it ends what it began."""

    rows: Rows  # an example of what a batch is made of, for its shapes
    size: int  # rows of a batch, over all devices
    turns: int  # the largest number of a turn that has statistics of its own

    @abstractmethod
    def summary(self, spec: ModelSpec, settings: TrainSettings) -> SourceSummary:
        """What the run will learn from."""

    @abstractmethod
    def steps(self) -> int:
        """Steps of a run whose settings do not say how many."""

    def begin(self, model: StartingModel) -> None:
        """Compute what is needed of the model as it is before the first step."""

    def follow(self, params: Parameters) -> None:
        """The weights before the next step, where batches depend on them."""

    @abstractmethod
    def batch(self, step: int, share: slice) -> Batch:
        """Rows `share` of batch `step` (0-based), [B, ...] on the host."""

    @abstractmethod
    def work(self, step: int) -> tuple[int, int, float]:
        """(tokens, pairs, FLOPs) of batch `step`, padding not counted."""

    @abstractmethod
    def conversations(self, step: int) -> list[str]:
        """The ids of the conversations in batch `step`."""

    def statistics(self, step: int) -> Mapping[str, float]:
        """What is known of batch `step` on the host, beside the totals of its step."""
        return {}

    def dispatched(self, step: int, totals: Totals) -> None:
        """The devices have batch `step`, and will have computed `totals` when its updates are done."""

    def time(self, step: int) -> StepTime | None:
        """What the time of batch `step` went into, where it was drawn and its totals were fetched."""
        return None

    @abstractmethod
    def position(self, step: int) -> dict[str, JSON]:
        """What to save so that a later run goes on with batch `step`. JSON."""

    @abstractmethod
    def resume(self, position: Mapping[str, JSON]) -> int:
        """The step to go on with. Raises AloeError that says what changed since the position was saved."""

    @abstractmethod
    def callbacks(self, program: TrainingProgram, mesh: Mesh, steps: int, reporting: Reporting) -> Sequence[Callback]:
        """What this source does beside the steps: validation, and following the weights where it draws with them."""


def open_source(settings: TrainSettings, stage: Stage, spec: ModelSpec, template: ChatTemplate, mesh: Mesh) -> Source:
    """The source of a stage's batches; `settings` are resolved. Raises AloeError where it does not fit the model."""
    module, name = STAGES[settings.stage].source
    made: Source = getattr(import_module(module), name)(settings, stage, spec, template, mesh)
    return made
