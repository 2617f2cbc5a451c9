"""README.md of an exported model: what it is, what it was trained on and how, how it scored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from aloe_jax.data.settings import DataSettings
from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from aloe_jax.models.checkpoint_files import checkpoint_steps
from aloe_jax.models.huggingface import NOT_STATED, front_matter
from aloe_jax.models.spec import ModelSpec
from aloe_jax.publishing.card_results import results_section
from aloe_jax.rollouts.rewards import roles_of
from aloe_jax.rollouts.self_preference import self_preference_warnings
from aloe_jax.settings import load_settings
from aloe_jax.storage.files import as_path, reachable, resolved
from aloe_jax.training.settings import OptimizerSettings, TrainSettings
from aloe_jax.training.stages import STAGES
from aloe_jax.training.stages.stage import stage_of

SCRATCH = "none, trained from scratch"
LOST = " (not there when this card was written, so what it was made from is not known)"
SIMULATED = "> **Simulated**:"  # how a line of a card begins that says what a script played


@dataclass(frozen=True)
class Origin:
    """Where a model came from: its training stages, newest first, and the model they started from."""

    stages: tuple[TrainSettings, ...]
    base: str  # the name of its directory, or SCRATCH
    licence: str
    simulated: tuple[str, ...] = ()  # what the card of that model says was simulated
    reached: tuple[int | None, ...] = ()  # the step of every stage whose weights are meant; None: not known
    lost: bool = False  # the model that the line ends with is not there, so what it was made from is not known


def trace_origin(path: Path, step: int | None = None) -> Origin:
    """Follow a run's `model.path` back through runs to the model that the first of them started from.

    A link that is no longer there ends the line; its licence is then not stated. `step`: the checkpoint of the run in
    `path` that is meant, None for its newest, which is also what a later stage starts from.
    """
    stages: list[TrainSettings] = []
    reached: list[int | None] = []
    while (path / "config.yaml").exists() and (path / "spec.json").exists():
        stages.append(load_settings(TrainSettings, path / "config.yaml"))
        reached.append(max(checkpoint_steps(path), default=None) if step is None or len(stages) > 1 else step)
        if stages[-1].model.path is None:
            return Origin(tuple(stages), SCRATCH, NOT_STATED, reached=tuple(reached))
        path = as_path(stages[-1].model.path)
    card = path / "README.md"
    lost = bool(stages) and not reachable(path)
    return Origin(tuple(stages), path.name, _licence(card), tuple(_simulated(card)), tuple(reached), lost)


def full_card(spec: ModelSpec, origin: Origin, scores: dict[str, JSON] | None, simulated: list[str]) -> str:
    """The card of a trained model. `scores`: one model of a benchmark's metrics.json; `simulated`: what was played
    by a script in data and benchmark, said at the top."""
    family = spec.title
    heading = f"{family}-architecture decoder" if origin.base == SCRATCH else origin.base
    lines = [f"# {', '.join([heading, *(_stage_name(stage) for stage in reversed(origin.stages))])}", ""]
    if simulated:
        lines += [f"{SIMULATED} {sentence}" for sentence in simulated]
        lines.append("")
    lines += [
        f"{'An' if family[0] in 'O' else 'A'} {family}-architecture decoder of {spec.parameter_count():,} parameters, "
        + ("trained with aloe-jax to suit the person it talks to." if origin.stages else "written by aloe-jax."),
        "",
        f"- Base model: {origin.base}{LOST if origin.lost else ''}",
        f"- Licence of the base model: {origin.licence}",
        f"- Context: {spec.max_length} tokens",
        *([f"- A reply ends with one of the tokens {', '.join(map(str, spec.eos_ids))}"] if spec.eos_ids else []),
        "",
        *training(origin),
        *results_section(scores),
    ]
    return front_matter(origin.licence) + "\n".join(lines).rstrip() + "\n"


def simulated(origin: Origin) -> list[str]:
    """Sentences on what a script played in the data of a model's stages, and in what they started from."""
    paths = [source.path for stage in reversed(origin.stages) for source in stage.data.sources]
    known = {path: simulated_data(path) for path in paths}
    played = [path for path, simulated in known.items() if simulated]
    unknown = [path for path, simulated in known.items() if simulated is None]
    found = []
    if played and len(played) == len(known):
        found.append("the people and replies of the training data were played by a script.")
    elif played:
        more = f" Of {', '.join(unknown)} it is not stated." if unknown else ""
        found.append(
            f"the people and replies of a part of the training data were played by a script: {', '.join(played)}.{more}"
        )
    personas = {stage.rl.personas for stage in origin.stages if not STAGES[stage.stage].needs_data}
    if any(path is not None and simulated_data(path) for path in personas):
        found.append("the personas of on-policy training come from a script.")
    if any(simulated_players(stage) for stage in origin.stages):
        found.append("the users, or the judge, of on-policy training were played by a script.")
    if not origin.stages:
        return list(origin.simulated)
    return found + [f"of the base model its card says: {sentence}" for sentence in origin.simulated]


def _simulated(readme: Path) -> Iterator[str]:
    try:
        lines = readme.read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        if line.startswith(SIMULATED):
            yield line.removeprefix(SIMULATED).removeprefix("of the base model its card says:").strip()


def simulated_data(path: str) -> bool | None:
    """Whether a data set says that a script played its people; None where it does not say or is not there."""
    try:
        return bool(json.loads((as_path(path) / "metadata.json").read_text())["simulated"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def benchmark_scores(metrics: Path, checkpoint: Path) -> tuple[dict[str, JSON] | None, list[str]]:
    """What a benchmark's metrics.json holds of the model in `checkpoint`, and the parts a script played in it.

    Beside the model's own numbers there are `same_family`, the run's warnings of self-preference bias, and `design`.
    Raises AloeError when the file is not a benchmark's.
    """
    try:
        values = json.loads(metrics.read_text())
        for name, source in values["settings"]["models"].items():
            tested = source.get("sees", "history") == "history"  # not a control: those are the same model seeing else
            if tested and source["path"] is not None and resolved(source["path"]) == resolved(checkpoint):
                more = {"same_family": values.get("same_family", []), "design": values.get("design")}
                return {**values["models"][name], **more}, values["simulated"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AloeError(f"{metrics}: not the metrics.json of a benchmark ({error!r})") from None
    return None, []


def _licence(readme: Path) -> str:
    """`license:` of a model card's front matter."""
    try:
        _, front, _ = readme.read_text().split("---", 2)
        return str(yaml.safe_load(front)["license"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return NOT_STATED


def training(origin: Origin) -> Iterator[str]:
    """The section on the stages, the first one first: objective, data, length, optimizer."""
    yield "## Training"
    yield ""
    if not origin.stages:
        yield f"{NOT_STATED.capitalize()}."
        yield ""
        return
    steps = origin.reached or (None,) * len(origin.stages)
    for stage, reached in zip(reversed(origin.stages), reversed(steps), strict=True):
        length = f"{stage.steps} steps" if stage.steps else f"{stage.epochs} epochs"
        if reached is not None and reached != stage.steps:
            length = f"{reached} steps (of {length} asked for)" if stage.steps else f"{reached} steps, of {length}"
        yield f"**{stage_of(stage).describe()}**"
        yield ""
        if STAGES[stage.stage].needs_data:
            yield f"- Data: {'; '.join(_data(stage.data))}"
        else:
            yield f"- Conversations with the personas of {describe_data(stage.rl.personas or '')}, {_players(stage)}"
            for sentence in self_preference_warnings(stage.rl, stage.roles, origin.base):
                yield f"- Warning: {sentence}"
        yield f"- Length: {length} of {stage.data.rows} rows of {stage.data.row_length} tokens, seed {stage.seed}"
        yield f"- {_optimizer(stage.optimizer)}"
        yield f"- Parameters in {stage.model.dtype}, computed in {stage.model.compute_dtype}"
        if lora := stage.model.lora:
            kept = "as loaded" if lora.base == "as_loaded" else f"in {lora.base}"
            yield f"- LoRA: rank {lora.rank}, alpha {lora.alpha:g} on {', '.join(lora.targets)}; base kept {kept}"
        yield ""


def _stage_name(stage: TrainSettings) -> str:
    """As the card's title has it: a baseline is called one wherever it goes."""
    baseline = stage.stage == "sft" and stage.sft.replies == "rejected"
    return f"{stage.stage.upper()} on rejected replies (baseline)" if baseline else stage.stage.upper()


def _data(data: DataSettings) -> Iterator[str]:
    """Every data set of a stage with what is known of it."""
    for source in data.sources:
        details = [f"weight {source.weight:g}"] if data.mixture else []
        details += [f"its first {source.limit:,} records"] if source.limit else []
        yield describe_data(source.path, details)


def describe_data(path: str, details: Sequence[str] = ()) -> str:
    """A data set with details, and what it says of itself."""
    played = {True: ["simulated"], False: [], None: ["not stated whether simulated"]}[simulated_data(path)]
    gone = [] if reachable(path) else ["not there when this card was written"]
    said = [*details, *played, *gone]
    return f"{path} ({', '.join(said)})" if said else path


def simulated_players(stage: TrainSettings) -> bool:
    """Whether a script played a user or the judge of a stage that talks to them."""
    roles = (stage.roles.user, *(getattr(stage.roles, name) for name in roles_of(stage.rl.rewards)))
    return not STAGES[stage.stage].needs_data and any(role.entry.simulated for role in roles)


def _players(stage: TrainSettings) -> str:
    """Who played whom, in a phrase."""
    names = ("user", *roles_of(stage.rl.rewards))
    roles = [(name, getattr(stage.roles, name)) for name in names]
    return ", ".join(f"{name}: {'/'.join(filter(None, (role.provider, role.model)))}" for name, role in roles)


OPTIMIZERS = {"adamw": "AdamW", "lion": "Lion", "adafactor": "Adafactor"}


def _optimizer(optimizer: OptimizerSettings) -> str:
    """The optimizer with the settings that it reads, as `make_optimizer` builds it."""
    name = OPTIMIZERS[optimizer.name]
    if optimizer.name == "adafactor":
        moments = "no first moment, the second factored with decay 1 - t^-0.8, "
    else:
        eps = f"eps {optimizer.eps:g}, " if optimizer.name == "adamw" else ""
        moments = f"b1 {optimizer.b1}, b2 {optimizer.b2}, {eps}first moment in {optimizer.moment_dtype}, "
    decay = f"weight decay {optimizer.weight_decay}"
    if optimizer.name == "adamw" and not optimizer.weight_decay:
        decay += " (so plain Adam)"
    to = "" if optimizer.schedule == "constant" else f" decay to {optimizer.final_fraction:g} of it"
    return (
        f"{name}: learning rate {optimizer.learning_rate}, {optimizer.warmup_steps} warm-up "
        f"steps, then {optimizer.schedule}{to}; {moments}{decay}, gradients clipped to norm {optimizer.clip_norm}"
    )
