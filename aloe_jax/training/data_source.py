"""Batches of a data set's packed rows, with validation on its held-out split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jax.sharding import Mesh

from aloe_jax.data.dataset import has_split
from aloe_jax.data.loader import Batch, evaluation_batches
from aloe_jax.data.mixture import Prepared
from aloe_jax.data.packing import Rows
from aloe_jax.data.people import shared_people
from aloe_jax.data.sources import Split
from aloe_jax.data.template import ChatTemplate
from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from aloe_jax.models.spec import ModelSpec
from aloe_jax.training import start
from aloe_jax.training.callback import Callback
from aloe_jax.training.program import TrainingProgram
from aloe_jax.training.reporting import Reporting
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.source import Source, SourceSummary
from aloe_jax.training.stages.stage import Stage, StartingModel
from aloe_jax.training.validation import Validation
from aloe_jax.training.work import Work, times_shown


class DataSource(Source):
    """Both splits of `data.path` or `data.mixture`, tokenised and packed."""

    def __init__(
        self, settings: TrainSettings, stage: Stage, spec: ModelSpec, template: ChatTemplate, mesh: Mesh
    ) -> None:
        """Reads and packs; `settings` are resolved. Raises AloeError where data, model and mesh do not fit."""
        self._settings, self._stage = settings, stage
        self._material = start.gather_material(settings, stage, template)
        start.check_material(settings, spec, self._material, mesh)
        self._loader = start.make_loader(settings, self._material)
        self._validation: Batch = {}
        self._work = Work.of(self._loader.rows, spec, settings.model.lora)
        self.rows, self.size = self._loader.rows, self._loader.size
        self.turns = start.most_turns(self._material)

    def __exit__(self, *_: object) -> None:
        """Nothing is left to end."""

    def summary(self, spec: ModelSpec, settings: TrainSettings) -> SourceSummary:
        """Means over the rows as an epoch shows them."""
        return data_summary(self._material.train, self._material.validation, self._work, self.size)

    def steps(self) -> int:
        """Those of `epochs` passes."""
        return self._settings.epochs * self._loader.steps_per_epoch()

    def begin(self, model: StartingModel) -> None:
        """Let the stage compute arrays of all rows, such as the log-probs of a reference."""
        rows: dict[Split, Rows] = {"train": self.rows, "validation": self._material.validation.rows}
        found = self._stage.compute_row_arrays(model, rows)
        self._loader = self._loader.with_arrays(found.get("train", {}))
        self._validation = found.get("validation", {})

    def batch(self, step: int, share: slice) -> Batch:
        """See `Loader.batch`."""
        return self._loader.batch(step, share)

    def work(self, step: int) -> tuple[int, int, float]:
        """See `Work.over`."""
        return self._work.over(self._loader.indices(step))

    def conversations(self, step: int) -> list[str]:
        """See `Loader.tree_ids`."""
        return self._loader.tree_ids(step)

    def position(self, step: int) -> dict[str, JSON]:
        """See `Loader.position`."""
        return self._loader.position(step)

    def resume(self, position: Mapping[str, JSON]) -> int:
        """See `Loader.resume`."""
        try:
            return self._loader.resume(position)
        except AloeError as error:
            data = self._settings.data
            lacks_validation = any(not has_split(source.path, "validation") for source in data.sources)
            if not lacks_validation or data.validation_by != "profile" or not self._material.train.people.profiles:
                raise
            raise AloeError(
                f"{error}; a run that an earlier version began, which held conversations out one by one, goes on with "
                "data.validation_by=conversation"
            ) from None

    def callbacks(self, program: TrainingProgram, mesh: Mesh, steps: int, reporting: Reporting) -> Sequence[Callback]:
        """Validation on the held-out rows."""
        rows = self._material.validation.rows
        batches = evaluation_batches(rows, self.size, self._validation)
        return [Validation(self._settings.evaluate_every, steps, program.evaluate, batches, mesh, reporting)]


def data_summary(train: Prepared, validation: Prepared, work: Work, size: int) -> SourceSummary:
    """What steps of `size` rows learn from; `work` is that of the training rows."""
    shown = times_shown(len(train.rows), train.parts)
    tokens, pairs, flops = work.mean_step(shown, size)
    parts = {part.name: report for part, report in zip(train.parts, train.reports, strict=True)}
    passes = size / float(shown.sum())
    validation_text = f"{validation.describe()}\n{shared_people(train.people, validation.people)}"
    return SourceSummary(train.describe(), validation_text, tokens, pairs, flops, passes, parts)
