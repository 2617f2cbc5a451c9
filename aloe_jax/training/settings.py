"""Settings of `python -m aloe_jax.train`, with their defaults."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from aloe_jax.data.settings import DataSettings, Replies
from aloe_jax.llm.settings import RolesSettings
from aloe_jax.models.settings import DType, ModelSettings
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.ranges import LARGEST, Decay, Factor, Fraction, PathText, Positive, Seed, Several, Thousands, Weight
from aloe_jax.rollouts.settings import RLSettings, WatchSettings
from aloe_jax.settings import Section
from aloe_jax.training.stages import STAGES

MOST_IN_A_STEP = 2**26  # tokens: a host holds several arrays of them


class OptimizerSettings(Section):
    """An optax optimizer with linear warm-up, then decay to `final_fraction` of the learning rate."""

    name: Literal["adamw", "lion", "adafactor"] = "adamw"
    moment_dtype: DType = "float32"  # how the first moment is stored (adamw, lion)
    learning_rate: Annotated[float, Field(ge=1e-12, le=1000)] = 1e-5
    warmup_steps: Annotated[int, Field(ge=0, le=LARGEST)] = 10
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final_fraction: Fraction = 0.1
    b1: Decay = 0.9
    b2: Decay = 0.95
    eps: Annotated[float, Field(ge=1e-20, le=1.0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0, le=1000)] = 0.0
    clip_norm: Annotated[float, Field(ge=1e-9, le=1e9)] = 1.0


class SFTSettings(Section):
    """Supervised fine-tuning on replies in the context in which they were given."""

    replies: Replies = "preferred"
    normalise: Literal["token", "sequence"] = "token"


PreferenceLoss = Literal["sigmoid", "robust", "ipo", "hinge", "length_normalised", "simpo", "orpo"]


class DPOSettings(Section):
    """Preference optimisation, by most losses against the frozen starting model as the reference."""

    loss: PreferenceLoss = "sigmoid"  # simpo and orpo have no reference
    beta: Factor = 0.1
    # The share of pairs whose judgement is taken to be the wrong way round: with sigmoid conservative DPO, with
    # robust the loss that is unbiased under such noise.
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    gamma: Weight = 0.5  # simpo: the reward margin asked for
    # Adds so many times the preferred replies' negative log-likelihood a token: DPO alone may make both replies of a
    # pair less likely as long as the gap grows, until the model says neither.
    sft_weight: Weight = 0.0
    turn_weights: tuple[Weight, ...] = Field(default=(), strict=False, max_length=1000)  # the last goes on
    reference_cache: PathText | None = None  # directory of reference log-probs that runs share; None: beside `output`

    renamed: ClassVar = {"reference": "reference_cache"}


class CheckpointSettings(Section):
    """When state is saved, and how many saves are kept (the newest and the best by validation loss)."""

    every: Positive = 100
    keep: Thousands = 2


class ProfileSettings(Section):
    """A window of steps that JAX's profiler records, for TensorBoard or Perfetto."""

    start: Positive | None = None  # the first step of it; None: no profile. The first steps compile: begin later
    steps: Several = 3


class TrainSettings(Section):
    """`python -m aloe_jax.train`."""

    stage: str  # see stages/__init__.py
    output: PathText
    seed: Seed = 0
    steps: Positive | None = None  # None: `epochs` passes over the data
    epochs: Thousands = 1
    log_every: Positive = 10
    evaluate_every: Positive = 100
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    mesh: MeshSettings = MeshSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    sft: SFTSettings = SFTSettings()
    dpo: DPOSettings = DPOSettings()
    rl: RLSettings = RLSettings()
    roles: RolesSettings = RolesSettings()  # of users and judges, where the stage talks to some
    checkpoints: CheckpointSettings = CheckpointSettings()
    profile: ProfileSettings = ProfileSettings()
    wandb: str | None = None  # project at Weights & Biases to report to; needs the package `wandb` and its login

    @field_validator("stage")
    @classmethod
    def _known(cls, stage: str) -> str:
        if stage not in STAGES:
            raise ValueError(f"input should be {' or '.join(map(repr, STAGES))}, not {stage!r}")
        return stage

    @model_validator(mode="after")
    def _consistent(self) -> TrainSettings:
        entry, given = STAGES[self.stage], bool(self.data.path) + bool(self.data.mixture)
        if entry.needs_data and given != 1:
            raise ValueError("data.path: give a TFDS directory or a JSONL file of conversations, or data.mixture")
        if not entry.needs_data:
            self._check_rollouts(given)
        if self.model.backend == "native" and (self.model.name is not None or self.model.overrides):
            raise ValueError("model.name and model.overrides belong to MaxText's models: set model.backend=maxtext")
        if self.model.backend == "maxtext" and self.model.path is None and self.model.name is None:
            raise ValueError("model.name: which of MaxText's models, such as gemma3-4b? Or give model.path")
        if self.model.backend == "maxtext" and self.model.lora is not None:
            raise ValueError("model.lora: adapters are for our own decoder; leave lora out, or set backend=native")
        if self.model.path is None and entry.needs_model:
            raise ValueError(f"model.path: {self.stage} starts from a trained model; give its directory")
        if self.model.path is None and self.model.lora is not None:
            raise ValueError("model.lora: adapters need a model to adapt; give model.path")
        if self.model.path is None and self.model.tokenizer is None:
            raise ValueError("model.tokenizer: a model from scratch needs a tokenizer directory")
        if (tokens := self.data.rows * self.data.row_length) > MOST_IN_A_STEP:
            raise ValueError(
                f"data.rows: {self.data.rows:,} rows of data.row_length {self.data.row_length:,} are {tokens:,} "
                f"tokens a step, at most {MOST_IN_A_STEP:,} can be; lower one of them"
            )
        if self.data.accumulate > self.data.rows:
            raise ValueError(
                f"data.accumulate: {self.data.rows} rows (data.rows) cannot be computed in {self.data.accumulate} parts"
            )
        return self

    def _check_rollouts(self, given: int) -> None:
        rl, data = self.rl, self.data
        if given:
            raise ValueError(f"data.path: {self.stage} learns from conversations of its own; leave it out")
        if rl.personas is None:
            raise ValueError(f"rl.personas: {self.stage} talks to personas; give a TFDS directory or a JSONL file")
        if data.packing != "trees":
            raise ValueError("data.packing: conversations that are drawn are trees; leave it out")
        if data.rows < rl.conversations:
            raise ValueError(
                f"data.rows: {rl.conversations} conversations a step (rl.conversations) may take as many rows; set "
                f"data.rows={rl.conversations} or more"
            )
        if rl.loss == "policy_gradient" and rl.updates > 1:
            raise ValueError(
                f"rl.updates: policy_gradient is right for one update a step, not {rl.updates}; set rl.loss=grpo"
            )
        if rl.draw.rows < rl.group:
            raise ValueError(
                f"rl.draw.rows: a group of {rl.group} replies (rl.group) is drawn together; set it to that or more"
            )
        most = rl.group * (rl.draw.max_new_tokens + 1)
        if most >= data.row_length:
            raise ValueError(
                f"data.row_length: one group of {rl.group} replies takes up to {most:,} tokens (rl.group x "
                f"rl.draw.max_new_tokens), a row {data.row_length:,}; raise it, or lower them"
            )
        if rl.groups * rl.group > data.row_length:
            raise ValueError(
                f"rl.branches: a conversation would branch into {rl.groups:,} groups of {rl.group} replies, a row has "
                f"{data.row_length:,} tokens (data.row_length); lower rl.branches or rl.branch_turns"
            )
        ahead = (1 + rl.lookahead) * (rl.draw.max_new_tokens + 1)
        if ahead >= data.row_length:
            raise ValueError(
                f"rl.lookahead: a reply and {rl.lookahead} that follow it take up to {ahead:,} tokens (rl.draw."
                f"max_new_tokens), a conversation {data.row_length:,} (data.row_length); lower rl.lookahead"
            )
        if rl.watch is not None:
            self._check_watch(rl.watch)

    def _check_watch(self, watch: WatchSettings) -> None:
        others = watch.roles.others(self.roles)
        if others.user is None and others.judge is None:
            raise ValueError(
                "rl.watch.roles: names neither a judge nor a user that differs from those of training (roles), so "
                "there would be nothing to compare; give another judge, another user or both, or leave rl.watch out"
            )
        if others.judge is None and "judge" not in self.rl.rewards:
            raise ValueError(
                "rl.watch.roles.judge: rl.rewards asks no judge, so that one has to be named for the watch"
            )
        if watch.personas > self.rl.heldout:
            raise ValueError(
                f"rl.watch.personas: {watch.personas} of the held-out personas are asked for, and there are "
                f"{self.rl.heldout} (rl.heldout); lower it, or raise rl.heldout"
            )
