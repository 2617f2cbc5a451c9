"""Every setting, with its default: frozen models, strict YAML, trailing overrides.

YAML files hold only the differences from what is written here. An unknown key or a wrong type is an AloeError
that names the file, the key and the nearest valid name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from aloe_jax.ranges import (
    LARGEST,
    AtOnce,
    Decay,
    Devices,
    Dollars,
    Factor,
    Fraction,
    Heads,
    PathText,
    Positive,
    Rows,
    Seed,
    Several,
    Temperature,
    Thousands,
    Tokens,
    Weight,
    Width,
    readable,
)
from aloe_jax.settings_file import dump, load
from aloe_jax.storage.files import is_remote

__all__ = ["dump", "load"]  # beside the sections, which are named where they are used

MOST_IN_A_STEP = 2**26  # tokens: a host holds several arrays of them
MOST_DRAWN = 200_000_000  # numbers of a bootstrap: resamples times cases


class Section(BaseModel):
    """A group of settings: frozen, strictly typed, closed to unknown keys, every number finite and every text plain."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        _check_plain(value)
        return value


def _check_plain(value: object) -> None:
    """Raise ValueError for text or numbers that nothing can be done with, at any depth of a setting."""
    if isinstance(value, str):
        readable(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _check_plain(key)
            _check_plain(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_plain(inner)


# ---------------------------------------------------------------- training


class Architecture(Section):
    """A decoder trained from scratch. Ignored when `model.path` is given."""

    layers: Several = 4
    width: Width = 128
    query_heads: Heads = 4
    kv_heads: Heads = 4
    feed_forward: Width = 512
    max_length: Tokens = 1024
    rope_theta: Annotated[float, Field(ge=1.0, le=1e12)] = 10_000.0
    tie_embeddings: bool = True


LoRATarget = Literal["query", "key", "value", "output", "gate", "up", "down"]


class LoRA(Section):
    """Low-rank adapters: small matrices are trained beside weights that stay as they are (arXiv 2106.09685)."""

    rank: Annotated[int, Field(gt=0, le=2**14)] = 16
    alpha: Factor = 32.0  # the adapters' product is scaled by alpha / rank
    targets: tuple[LoRATarget, ...] = Field(
        default=("query", "key", "value", "output", "gate", "up", "down"), min_length=1, strict=False
    )
    base: Literal["as_loaded", "int8", "int4", "nf4"] = "as_loaded"  # how the frozen weights are held; nf4: QLoRA


class Model(Section):
    """Which model, and how it is computed."""

    backend: Literal["native", "maxtext"] = "native"  # our decoder, or one of MaxText's models
    # A Hugging Face directory, one of our run directories, or a checkpoint of MaxText's (.../checkpoints/9/items) with
    # its name and overrides; None: from scratch.
    path: PathText | None = None
    # Of a MaxText model from scratch or in one of its checkpoints, such as llama3.1-8b; `default`: by `overrides`.
    name: str | None = None
    overrides: dict[str, Any] = {}  # MaxText's own settings, such as base_emb_dim or load_balance_loss_weight
    architecture: Architecture = Architecture()
    tokenizer: PathText | None = None  # defaults to the tokenizer in `path`
    attention: Literal["auto", "dense", "chunked", "tpu", "gpu"] = "auto"  # auto: the kernel of the platform
    remat: Literal["none", "full", "dots"] = "none"
    unroll: Several = 1  # layers per scan step: more compiles longer and runs faster on CPU
    dtype: Literal["float32", "bfloat16"] = "float32"  # of parameters; bfloat16 ones have float32 master copies
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    lora: LoRA | None = None  # None: all parameters are trained


class Source(Section):
    """One data set of a mixture."""

    path: PathText  # TFDS directory (…/aloe_trees/1.0.0) or a JSONL file
    format: Literal["auto", "trees", "chat", "preferences"] = "auto"  # auto: told from the first record
    weight: Annotated[float, Field(ge=1e-6, le=1000)] = (
        1.0  # passes over it in an epoch: 2 shows it twice, 0.5 every other time
    )
    limit: Positive | None = None  # its first so many records only, before any are held out for validation


class Data(Section):
    """Which conversations, and how they are laid out in rows."""

    path: str = ""  # TFDS directory (…/aloe_trees/1.0.0) or a JSONL file: of conversation trees, chats or preferences
    mixture: tuple[Source, ...] = Field(default=(), strict=False)  # several data sets, in place of `path`
    row_length: Tokens = 2048
    # How conversations lie in rows. trees: every token once, replies as branches. paths: every reply after a prompt of
    # its own, several times the tokens; for the flash kernels of MaxText's models, which know no trees.
    packing: Literal["trees", "paths"] = "trees"
    rows: Rows = 8  # rows per step over all devices
    accumulate: Rows = 1  # parts that a step's rows are computed in, one after the other: less memory, same result
    limit: Positive | None = None  # first so many records of `path` only
    validation_limit: Positive | None = 200  # conversations of each source's validation split
    validation_fraction: Annotated[float, Field(ge=1e-6, lt=1.0)] = 0.05  # held out of a data set without such a split


class Mesh(Section):
    """Devices per mesh axis; -1 takes what is left."""

    data: Devices = 1
    fsdp: Devices = -1
    tensor: Devices = 1

    @model_validator(mode="after")
    def _one_rest(self) -> Mesh:
        sizes = [self.data, self.fsdp, self.tensor]
        if sizes.count(-1) > 1 or 0 in sizes:
            raise ValueError(f"data, fsdp and tensor must be positive, at most one of them -1, not {sizes}")
        return self


class Optimizer(Section):
    """An optax optimizer with linear warm-up, then decay to `final_fraction` of the learning rate."""

    name: Literal["adamw", "lion", "adafactor"] = "adamw"
    moment_dtype: Literal["float32", "bfloat16"] = "float32"  # how the first moment is held (adamw, lion)
    learning_rate: Annotated[float, Field(ge=1e-12, le=1000)] = 1e-5
    warmup_steps: Annotated[int, Field(ge=0, le=LARGEST)] = 10
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final_fraction: Fraction = 0.1
    b1: Decay = 0.9
    b2: Decay = 0.95
    eps: Annotated[float, Field(ge=1e-20, le=1.0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0, le=1000)] = 0.0
    clip_norm: Annotated[float, Field(ge=1e-9, le=1e9)] = 1.0


class SFT(Section):
    """Supervised fine-tuning on replies in the context in which they were given."""

    replies: Literal["preferred", "plain", "both"] = "preferred"  # plain: written without the persona hint
    normalise: Literal["token", "sequence"] = "token"


PreferenceLoss = Literal["sigmoid", "robust", "ipo", "hinge", "length_normalised", "simpo", "orpo"]


class DPO(Section):
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
    reference: PathText | None = None  # directory of reference log-probs that runs share; None: beside `output`


class Checkpoints(Section):
    """When state is saved, and how many saves are kept (the newest and the best by validation loss)."""

    every: Positive = 100
    keep: Thousands = 2


class Profile(Section):
    """A window of steps that JAX's profiler records, for TensorBoard or Perfetto."""

    start: Positive | None = None  # the first step of it; None: no profile. The first steps compile: begin later
    steps: Several = 3


class Train(Section):
    """`python -m aloe_jax.train`."""

    stage: Literal["sft", "dpo"]
    output: PathText
    seed: Seed = 0
    steps: Positive | None = None  # None: `epochs` passes over the data
    epochs: Thousands = 1
    log_every: Positive = 10
    evaluate_every: Positive = 100
    model: Model = Model()
    data: Data = Data()
    mesh: Mesh = Mesh()
    optimizer: Optimizer = Optimizer()
    sft: SFT = SFT()
    dpo: DPO = DPO()
    checkpoints: Checkpoints = Checkpoints()
    profile: Profile = Profile()
    wandb: str | None = None  # project at Weights & Biases to report to; needs the package `wandb` and its login

    @model_validator(mode="after")
    def _consistent(self) -> Train:
        if bool(self.data.path) == bool(self.data.mixture):
            raise ValueError("data.path: give a TFDS directory or a JSONL file of conversations, or data.mixture")
        if self.model.backend == "native" and (self.model.name is not None or self.model.overrides):
            raise ValueError("model.name and model.overrides belong to MaxText's models: set model.backend=maxtext")
        if self.model.backend == "maxtext" and self.model.path is None and self.model.name is None:
            raise ValueError("model.name: which of MaxText's models, such as gemma3-4b? Or give model.path")
        if self.model.backend == "maxtext" and self.model.lora is not None:
            raise ValueError("model.lora: adapters are for our own decoder; leave lora out, or set backend=native")
        if self.model.path is None and self.stage == "dpo":
            raise ValueError("model.path: dpo starts from a trained model, its reference; give its directory")
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


# ---------------------------------------------------------------- language models in roles


class Price(Section):
    """What a model costs, in US dollars per million tokens; thinking counts as output."""

    input: Annotated[float, Field(ge=0, le=1e9)]
    output: Annotated[float, Field(ge=0, le=1e9)]

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """Dollars for so many tokens."""
        return (self.input * input_tokens + self.output * output_tokens) / 1e6


Provider = Literal["gemini", "genai", "openai", "policy", "scripted"]


class Role(Section):
    """Which language model plays a role, and how it is reached."""

    provider: Provider = "gemini"
    model: str | None = None  # as the provider names it; for `policy`, one of our runs or a Hugging Face directory
    temperature: Temperature = 0.8
    max_output_tokens: Positive = 8192  # thinking included; 128 for `policy`
    thinking_budget: Annotated[int, Field(ge=0, le=LARGEST)] | None = None  # genai only; None: the model's own
    endpoint: str | None = None  # base URL of another server; required by `openai` unless it is OpenAI's own
    key_variable: str | None = None  # environment variable with the key; None: the provider's usual ones
    project: str | None = None  # genai: a Google Cloud project makes it Vertex AI, with `location`
    location: str = "global"
    timeout: Annotated[float, Field(gt=0, le=86_400)] = (
        120.0  # seconds for one attempt, from the first byte to the last
    )
    attempts: Several = 8  # of one call while the server is overloaded or cannot be reached
    # Seconds that a server may ask to wait before the next attempt; where it asks for more the run ends.
    longest_wait: Annotated[float, Field(ge=0, le=86_400)] = 300.0
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    price: Price | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_replies(cls, values: Any) -> Any:
        # A policy's context is small, and all of it that a reply may take is held free.
        if isinstance(values, dict) and values.get("provider") == "policy":
            return {"max_output_tokens": 128} | values
        return values

    @field_validator("endpoint")
    @classmethod
    def _without_secrets(cls, endpoint: str | None) -> str | None:
        # Settings are written beside every run's results. The message must not repeat what it refuses.
        if endpoint is None:
            return None
        if re.search(r"[\x00-\x20\x7f]", endpoint):
            raise ValueError("there is a space or a line break in the address")
        rest = endpoint.partition("://")[2] or endpoint
        if "@" in rest:
            raise ValueError(
                "a user name or a password stands in the address, which is saved with every run; leave out what is "
                "before the @, and give the name of an environment variable with the key as key_variable"
            )
        if "?" in rest or "#" in rest:
            raise ValueError(
                "the address has a query (?...), which is saved with every run and not sent to the server; leave it "
                "out, and give the name of an environment variable with the key as key_variable"
            )
        return endpoint

    @field_validator("key_variable")
    @classmethod
    def _a_name(cls, variable: str | None) -> str | None:
        if variable is not None and (
            not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable) or variable.startswith(("AIza", "gsk_", "hf_"))
        ):
            raise ValueError(
                "is no name of an environment variable; put the key itself into the environment, under a name such as "
                "MY_KEY, and give that name"
            )
        return variable

    @model_validator(mode="after")
    def _reachable(self) -> Role:
        if self.thinking_budget is not None and self.provider != "genai":
            raise ValueError(f"thinking_budget: only provider genai can set it, not {self.provider}")
        if self.project is not None and self.provider != "genai":
            raise ValueError(f"project: only provider genai reaches Vertex AI, not {self.provider}")
        return self

    def shaping(self) -> dict[str, Any]:
        """The settings that decide what the role says; the rest decides only how and how fast it is reached."""
        if self.provider == "scripted":
            return {"model": "scripted", "temperature": self.temperature}
        return {"model": self.model, "temperature": self.temperature, "thinking_budget": self.thinking_budget}


class Roles(Section):
    """The cast: who writes personas, talks, infers, replies, verifies and judges.

    A setting of a role given directly under `roles` (`roles.model: …`) holds for every role that does not give
    its own.
    """

    persona_writer: Role = Role()
    user: Role = Role()
    inducer: Role = Role()
    responder: Role = Role()
    verifier: Role = Role(temperature=0.0)
    judge: Role = Role(temperature=0.0)

    @model_validator(mode="before")
    @classmethod
    def _share(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        shared = {key: value for key, value in values.items() if key in Role.model_fields}
        resolved = {key: value for key, value in values.items() if key not in shared}
        for name in cls.model_fields:
            own = resolved.get(name, {})
            if isinstance(own, dict):
                steady: dict[str, Any] = {"temperature": 0.0} if name in ("verifier", "judge") else {}
                resolved[name] = steady | shared | own
        return resolved


# ---------------------------------------------------------------- data generation


class Personas(Section):
    """The pool: `profiles` × `personalities_per_profile` for training, and a disjoint benchmark set."""

    profiles: Thousands = 331
    personalities: Thousands = 72
    personalities_per_profile: Thousands = 10
    benchmark_profiles: Thousands = 20
    benchmark_personalities: Thousands = 5
    seeds: PathText | None = (
        None  # directory with profiles.txt and personalities.txt, one a line; None: the built-in ones
    )
    examples: Several = 5  # random pool members shown to the writer
    candidates: Several = 20  # asked of the writer in one call
    vectors: Literal["words", "gemini", "sentence-transformers"] = "words"  # what similarity is measured on
    vector_model: str | None = None  # the embedding model, for instance gemini-embedding-001 or all-MiniLM-L6-v2
    similarity: Fraction = 0.6  # cosine above which a candidate is a duplicate; `calibrate` finds one for `vectors`
    patience: Thousands = 20  # calls in a row without a new member before the pool counts as saturated


class Conversations(Section):
    """How many trees, how deep, and how many are written at once."""

    count: Positive = 3310
    turns: Several = 10
    concurrency: AtOnce = 8
    hint: bool = True  # one of the two replies is written with the inferred persona; False: two plain draws
    verify_twice: bool = False  # ask the verifier in both orders; replies on which it disagrees are drawn again
    branch: Literal["random", "both"] = (
        "random"  # both: the user answers both replies in the first `branch_depth` turns
    )
    branch_depth: Annotated[int, Field(gt=0, le=12)] = 1  # every turn of it doubles the conversation
    batch: bool = False  # through the Gemini Batch API at half price, turns advancing in waves; provider genai only
    validation_fraction: Fraction = 0.05

    @model_validator(mode="after")
    def _deep_enough(self) -> Conversations:
        if self.branch == "both" and self.branch_depth > self.turns:
            raise ValueError(f"branch_depth: {self.branch_depth} is more than the {self.turns} turns there are (turns)")
        return self


class Datagen(Section):
    """`python -m datagen`."""

    output: PathText  # journal.sqlite and the data sets lie here
    seed: Seed = 0
    max_cost: Dollars | None = None  # dollars that one run may spend; stops cleanly
    max_calls: Positive | None = None  # calls that one run may make; stops cleanly
    personas: Personas = Personas()
    conversations: Conversations = Conversations()
    roles: Roles = Roles()

    @field_validator("output")
    @classmethod
    def _on_a_disk(cls, output: str) -> str:
        if is_remote(output):
            raise ValueError(
                f"{output} is in a bucket, where a journal cannot be kept; give a local directory, and copy its tfds/ "
                "with gcloud storage rsync --recursive"
            )
        return output


# ---------------------------------------------------------------- benchmark


class Candidate(Section):
    """A model under test: one of our runs, a Hugging Face directory, a remote model, or a scripted reference line."""

    path: PathText | None = None
    scripted: Literal["generic", "informed"] | None = None  # the responder, knowing nothing or the whole persona
    remote: Role | None = None  # a model behind a provider, asked with the responder's prompt and no hint

    @model_validator(mode="after")
    def _one_source(self) -> Candidate:
        if sum(source is not None for source in (self.path, self.scripted, self.remote)) != 1:
            raise ValueError(
                "give one of path (a model directory), remote (provider and model) and scripted (generic or informed)"
            )
        return self


class Sampling(Section):
    """How replies are drawn. temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 do not cut."""

    temperature: Temperature = 1.0
    top_k: Annotated[int, Field(ge=0, le=2**20)] = 0
    top_p: Annotated[float, Field(ge=1e-6, le=1.0)] = 1.0
    min_p: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  # cuts what is less likely than this share of the likeliest
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] = (
        1.0  # above 1 makes tokens that the context has less likely
    )
    max_new_tokens: Tokens = 128
    max_length: Tokens = 4096
    rows: Rows = 64  # conversations whose replies are drawn together; more wait their turn
    cache: Literal["compute", "bfloat16", "int8"] = "compute"  # how keys and values are held
    dtype: Literal["float32", "bfloat16"] = "float32"  # of parameters and activations
    # Of a model that fits on one device every device gets some rows; over `tensor` the model itself is split.
    mesh: Mesh = Mesh(data=-1, fsdp=1)

    @model_validator(mode="after")
    def _room(self) -> Sampling:
        if self.max_new_tokens >= self.max_length:
            raise ValueError(
                f"max_new_tokens: {self.max_new_tokens} leave no room for a prompt in max_length {self.max_length}"
            )
        return self


class Judging(Section):
    """Who rates the replies, how often, and how it is made sure that the ratings mean something."""

    judges: dict[str, Role] = {}  # several judges, by name, by default at temperature 0; none: `roles.judge` alone
    votes: Several = 1  # ratings of a reply by each judge, each asked with a seed of its own
    # Before anything else the judges rate replies of known quality. require: one that cannot tell them apart stops
    # the run; report: it is only told.
    calibrate: Literal["require", "report", "skip"] = "require"
    calibration_personas: Annotated[int, Field(gt=1, le=10_000)] = 6
    threshold: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.6  # least rank correlation with the known quality
    # Models whose dialogues are also compared side by side, in both orders.
    pairs: tuple[Annotated[tuple[str, str], Field(strict=False)], ...] = Field(default=(), strict=False)
    people: tuple[PathText, ...] = Field(default=(), strict=False)  # files that the human-rating page saved

    @field_validator("judges", mode="before")
    @classmethod
    def _steady(cls, judges: Any) -> Any:
        if not isinstance(judges, dict):
            return judges
        return {name: {"temperature": 0.0} | role if isinstance(role, dict) else role for name, role in judges.items()}


class Evaluate(Section):
    """`python -m aloe_jax.evaluate`."""

    output: PathText
    personas: PathText  # TFDS directory (…/aloe_personas/1.0.0), its benchmark split
    models: dict[str, Candidate] = Field(min_length=1)
    seed: Seed = 0
    cases: Thousands = 100
    turns: Several = 10
    bootstrap: Thousands = 2000
    permutations: Thousands = 10_000  # for the p-values of differences between models
    concurrency: AtOnce = 8  # calls to remote users, and as many to remote judges, at once
    max_cost: Dollars | None = None  # dollars that one run may spend; stops cleanly
    max_calls: Positive | None = None  # calls that one run may make; stops cleanly
    sampling: Sampling = Sampling()
    roles: Roles = Roles()
    judging: Judging = Judging()

    @model_validator(mode="after")
    def _consistent(self) -> Evaluate:
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
        for name, judge in (self.judging.judges or {"roles.judge": self.roles.judge}).items():
            if self.judging.votes > 1 and judge.temperature == 0 and judge.provider != "scripted":
                raise ValueError(
                    f"judging.votes: {name} at temperature 0 gives the same vote again; raise its temperature, "
                    "or name several judges"
                )
        return self


class Preferences(Section):
    """`python -m aloe_jax.evaluate --preferences`: how models score held-out pairs of replies, without any judge."""

    output: PathText
    data: PathText  # TFDS directory (…/aloe_trees/1.0.0) or a JSONL file of conversation trees
    models: dict[str, PathText] = Field(min_length=1)  # name -> a Hugging Face directory or one of our runs
    reference: PathText | None = None  # such a directory, for implicit rewards; None: log-probs alone
    split: str = "validation"
    limit: Positive | None = None  # first so many conversations only
    row_length: Tokens = 2048
    rows: Rows = 8  # computed together, over all devices
    dtype: Literal["float32", "bfloat16"] = "float32"
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["auto", "dense", "chunked", "tpu", "gpu"] = "auto"
    mesh: Mesh = Mesh()
    bootstrap: Annotated[int, Field(gt=0, le=100_000)] = 2000
    seed: Seed = 0
