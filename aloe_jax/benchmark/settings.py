"""Settings of `python -m aloe_jax.evaluate`, with their defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from aloe_jax.data.settings import RowSettings
from aloe_jax.llm.registry import register
from aloe_jax.llm.settings import RoleSettings, RolesSettings, SteadyRole
from aloe_jax.models.settings import ComputeSettings
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.ranges import AtOnce, Dollars, PathText, Positive, Seed, Several, Thousands
from aloe_jax.sampling.provider import POLICY
from aloe_jax.sampling.settings import SamplingSettings
from aloe_jax.settings import Section

register(POLICY)

ReferenceLine = Literal["generic", "informed"]
Control = Literal["persona", "last_message"]
# What the model is shown: the conversation, the conversation and the persona, or the newest message.
Sees = Literal["history", Control]
FEWEST_CALIBRATING = 10  # people: flipping the signs of four conversations has no p-value below 1/16
MOST_DRAWN = 200_000_000  # numbers of a bootstrap: resamples times cases


class CandidateSettings(Section):
    """A model under test: one of our runs, a Hugging Face directory, a remote model, or a scripted reference line."""

    path: PathText | None = None
    scripted: ReferenceLine | None = None  # the responder, knowing nothing or the whole persona
    remote: RoleSettings | None = None  # a model behind a provider, asked with the responder's prompt and no hint
    # persona: the messages so far, and the persona in the prompt; last_message: no history. Both are controls, by which
    # a model is read, and are not under test themselves.
    sees: Sees = "history"

    @property
    def under_test(self) -> bool:
        """Whether it is neither a reference line nor a control."""
        return self.scripted is None and self.sees == "history"

    @model_validator(mode="after")
    def _one_source(self) -> CandidateSettings:
        if sum(source is not None for source in (self.path, self.scripted, self.remote)) != 1:
            raise ValueError(
                "give one of path (a model directory), remote (provider and model) and scripted (generic or informed)"
            )
        if self.scripted is not None and self.sees != "history":
            raise ValueError(f"sees: {self.scripted} is a reference line, which has no controls; leave sees out")
        return self


WRITTEN_CALIBRATING = 36  # people in calibration.json, of whom real judges rate replies


class JudgingSettings(Section):
    """Who rates the replies, how often, and what makes sure that the ratings mean something."""

    judges: dict[str, SteadyRole] = Field(default_factory=dict)  # several, by name; none: `roles.judge` alone
    votes: Several = 1  # ratings of a reply by each judge, each asked with a seed of its own
    # Before anything else the judges rate replies of known quality (`aloe_jax.benchmark.calibration`). require: one
    # that does not pass stops the run; report: it is only reported.
    calibrate: Literal["require", "report", "skip"] = "require"
    calibration_personas: Annotated[int, Field(gt=1, le=10_000)] = (
        36  # two to a conversation; at most that for real judges
    )
    # Least rank correlation with the known quality: a condition besides the two paired tests.
    threshold: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.6
    # Models whose dialogues are also compared side by side, in both orders.
    pairs: tuple[Annotated[tuple[str, str], Field(strict=False)], ...] = Field(default=(), strict=False)
    people: tuple[PathText, ...] = Field(default=(), strict=False)  # files that the human-rating page saved

    @model_validator(mode="after")
    def _can_pass(self) -> JudgingSettings:
        count = self.calibration_personas
        if self.calibrate != "skip" and (count < FEWEST_CALIBRATING or count % 2):
            raise ValueError(
                f"calibration_personas: with {count} no judge can pass, or one person has nobody to share a "
                f"conversation with; give an even number from {FEWEST_CALIBRATING} on (36 are written), or leave it out"
            )
        return self


class EvaluateSettings(Section):
    """`python -m aloe_jax.evaluate`."""

    output: PathText
    personas: PathText  # TFDS directory (…/aloe_personas/1.0.0), its benchmark split
    models: dict[str, CandidateSettings] = Field(min_length=1)
    # Shorthand: adds every model under test to `models` once more for each of these, as NAME-persona with
    # `sees: persona` and so on, and is empty from then on.
    controls: tuple[Control, ...] = Field(default=(), strict=False)
    seed: Seed = 0
    cases: Thousands = 100
    turns: Several = 10
    bootstrap: Thousands = 2000
    permutations: Thousands = 10_000  # for the p-values of differences between models
    concurrency: AtOnce = 8  # calls to remote users, and as many to remote judges, at once
    max_cost: Dollars | None = None  # dollars that one run may spend; stops cleanly
    max_calls: Positive | None = None  # calls that one run may make; stops cleanly
    sampling: SamplingSettings = SamplingSettings()
    roles: RolesSettings = RolesSettings()
    judging: JudgingSettings = JudgingSettings()

    @model_validator(mode="before")
    @classmethod
    def _with_controls(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        controls, models = values.get("controls"), values.get("models")
        known = isinstance(controls, list | tuple) and all(one in get_args(Control) for one in controls)
        if not controls or not known or not isinstance(models, dict):
            return values  # nothing to add, or a fault that is reported of the field
        return {**values, "models": _controlled(models, controls), "controls": ()}

    @model_validator(mode="after")
    def _consistent(self) -> EvaluateSettings:
        for name, draws in (("bootstrap", self.bootstrap), ("permutations", self.permutations)):
            if draws * self.cases > MOST_DRAWN:
                raise ValueError(
                    f"{name}: {draws:,} times {self.cases:,} cases are more numbers than memory holds; "
                    f"give at most {MOST_DRAWN // self.cases:,}"
                )
        for pair in self.judging.pairs:
            for name in pair:
                if name not in self.models:
                    raise ValueError(f"judging.pairs: there is no model {name}; choose from {', '.join(self.models)}")
            if pair[0] == pair[1]:
                raise ValueError(f"judging.pairs: {pair[0]} cannot be compared with itself")
        judging = self.judging
        for name, judge in (judging.judges or {"roles.judge": self.roles.judge}).items():
            calibrates = judging.calibrate != "skip" and not judge.entry.simulated
            if calibrates and judging.calibration_personas > WRITTEN_CALIBRATING:
                raise ValueError(
                    f"judging.calibration_personas: {WRITTEN_CALIBRATING} people are written for judges that are not "
                    f"simulated, such as {name}; give at most that many, not {judging.calibration_personas:,}"
                )
            if self.judging.votes > 1 and judge.temperature == 0 and not judge.entry.simulated:
                raise ValueError(
                    f"judging.votes: {name} at temperature 0 gives the same vote again; raise its temperature, "
                    "or name several judges"
                )
        return self


def _controlled(models: dict[str, object], controls: Sequence[str]) -> dict[str, object]:
    """The models, and behind them the controls of all under test. Raises ValueError where a name is taken."""
    found = dict(models)
    for name, source in models.items():
        given = source.model_dump() if isinstance(source, CandidateSettings) else source
        if (
            not isinstance(given, dict)
            or given.get("scripted") is not None
            or given.get("sees", "history") != "history"
        ):
            continue
        for control in controls:
            added, control_name = {**given, "sees": control}, f"{name}-{control}"
            if found.setdefault(control_name, added) != added:
                raise ValueError(f"controls: models.{control_name} is there already, as something else; rename it")
    return found


class HeldOutSettings(RowSettings):
    """Which held-out conversations, and how they are laid out in rows."""

    path: PathText  # TFDS directory (…/aloe_trees/1.0.0) or a JSONL file of conversation trees
    split: str = "validation"
    limit: Positive | None = None  # first so many conversations only


class PreferencesSettings(Section):
    """`python -m aloe_jax.evaluate --preferences`: how models score held-out pairs of replies, without any judge."""

    output: PathText
    data: HeldOutSettings
    models: dict[str, PathText] = Field(min_length=1)  # name -> a Hugging Face directory or one of our runs
    reference: PathText | None = None  # such a directory, for implicit rewards; None: log-probs alone
    model: ComputeSettings = ComputeSettings()
    mesh: MeshSettings = MeshSettings()
    bootstrap: Annotated[int, Field(gt=0, le=100_000)] = 2000
    seed: Seed = 0

    renamed: ClassVar = {
        "data": "data.path",
        **{key: f"data.{key}" for key in ("split", "limit", "row_length", "rows")},
        **{key: f"model.{key}" for key in ("dtype", "compute_dtype", "attention")},
    }
