"""README.md of an exported model: what it is, what it was trained on and how, how it scored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from aloe_jax.data.settings import DataSettings
from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from aloe_jax.models.huggingface import NOT_STATED, front_matter
from aloe_jax.models.spec import ModelSpec
from aloe_jax.rollouts.kinship import same_family
from aloe_jax.rollouts.rewards import roles_of
from aloe_jax.settings import load_settings
from aloe_jax.storage.files import as_path, reachable, resolved
from aloe_jax.training.settings import OptimizerSettings, TrainSettings
from aloe_jax.training.stages import STAGES
from aloe_jax.training.stages.stage import stage_of

SCRATCH = "none, trained from scratch"
SIMULATED = "> **Simulated**:"  # how a line of a card begins that says what a script played


@dataclass(frozen=True)
class Origin:
    """Where a model came from: its training stages, newest first, and the model they started from."""

    stages: tuple[TrainSettings, ...]
    base: str  # the name of its directory, or SCRATCH
    licence: str
    simulated: tuple[str, ...] = ()  # what the card of that model says was simulated


def trace_origin(path: Path) -> Origin:
    """Follow a run's `model.path` back through runs to the model that the first of them started from.

    A link that is no longer there ends the line; its licence is then not stated.
    """
    stages: list[TrainSettings] = []
    while (path / "config.yaml").exists() and (path / "spec.json").exists():
        stages.append(load_settings(TrainSettings, path / "config.yaml"))
        if stages[-1].model.path is None:
            return Origin(tuple(stages), SCRATCH, NOT_STATED)
        path = as_path(stages[-1].model.path)
    card = path / "README.md"
    return Origin(tuple(stages), path.name, _licence(card), tuple(_simulated(card)))


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
        f"- Base model: {origin.base}",
        f"- Licence of the base model: {origin.licence}",
        f"- Context: {spec.max_length} tokens",
        *([f"- A reply ends with one of the tokens {', '.join(map(str, spec.eos_ids))}"] if spec.eos_ids else []),
        "",
        *_training(origin),
        *_results(scores),
    ]
    return front_matter(origin.licence) + "\n".join(lines).rstrip() + "\n"


def simulated(origin: Origin) -> list[str]:
    """Sentences on what a script played in the data of a model's stages, and in what they started from."""
    paths = {source.path for stage in origin.stages for source in stage.data.sources}
    found = []
    if any(simulated_data(path) for path in paths):
        found.append("the people and replies of the training data were played by a script.")
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
    except (OSError, ValueError, KeyError):
        return None


def benchmark_scores(metrics: Path, checkpoint: Path) -> tuple[dict[str, JSON] | None, list[str]]:
    """What a benchmark's metrics.json holds of the model in `checkpoint`, and the parts a script played in it.

    Beside the model's own numbers there is `same_family`, what the run warned of its judges.
    Raises AloeError when the file is not a benchmark's.
    """
    try:
        values = json.loads(metrics.read_text())
        for name, source in values["settings"]["models"].items():
            tested = source.get("sees", "history") == "history"  # not a control: those are the same model seeing else
            if tested and source["path"] is not None and resolved(source["path"]) == resolved(checkpoint):
                return {**values["models"][name], "same_family": values.get("same_family", [])}, values["simulated"]
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


def _training(origin: Origin) -> Iterator[str]:
    yield "## Training"
    yield ""
    if not origin.stages:
        yield f"{NOT_STATED.capitalize()}."
        yield ""
        return
    for stage in reversed(origin.stages):
        length = f"{stage.steps} steps" if stage.steps else f"{stage.epochs} epochs"
        yield f"**{stage_of(stage).describe()}**"
        yield ""
        if STAGES[stage.stage].needs_data:
            yield f"- Data: {', '.join(_data(stage.data))}"
        else:
            yield f"- Conversations with the personas of {stage.rl.personas}, {_players(stage)}"
            for sentence in same_family(stage.rl, stage.roles, origin.base):
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
        played = simulated_data(source.path)
        details = [f"weight {source.weight:g}"] if data.mixture else []
        details += [f"its first {source.limit:,} records"] if source.limit else []
        details += ["simulated"] if played else []
        details += ["not there when this card was written"] if not reachable(source.path) else []
        yield f"{source.path} ({', '.join(details)})" if details else source.path


def simulated_players(stage: TrainSettings) -> bool:
    """Whether a script played a user or the judge of a stage that talks to them."""
    roles = (stage.roles.user, *(getattr(stage.roles, name) for name in roles_of(stage.rl.rewards)))
    return not STAGES[stage.stage].needs_data and any(role.entry.simulated for role in roles)


def _players(stage: TrainSettings) -> str:
    """Who played whom, in a phrase."""
    names = ("user", *roles_of(stage.rl.rewards))
    roles = [(name, getattr(stage.roles, name)) for name in names]
    return ", ".join(f"{name}: {role.model or role.provider}" for name, role in roles)


OPTIMIZERS = {"adamw": "AdamW", "lion": "Lion", "adafactor": "Adafactor"}


def _optimizer(optimizer: OptimizerSettings) -> str:
    betas = "" if optimizer.name == "adafactor" else f"b1 {optimizer.b1}, b2 {optimizer.b2}, "
    return (
        f"{OPTIMIZERS[optimizer.name]}: learning rate {optimizer.learning_rate}, {optimizer.warmup_steps} warm-up "
        f"steps, then {optimizer.schedule}; {betas}weight decay {optimizer.weight_decay}, gradients clipped to norm "
        f"{optimizer.clip_norm}"
    )


def _results(scores: dict[str, JSON] | None) -> Iterator[str]:
    if scores is None:
        return
    yield "## ALOE benchmark"
    yield ""
    yield f"{scores['cases']} held-out personas, {scores['turns']} turns, ratings from 1 to 5, 95% intervals."
    yield "Values are comparable with those of models that the same judge rated, and with no others."
    yield ""
    warnings = scores.get("same_family")
    for sentence in warnings if isinstance(warnings, list) else ():
        yield f"Warning: {sentence}."
        yield ""
    yield "| metric | value | from | to |"
    yield "| --- | --- | --- | --- |"
    for name, value in scores.items():
        if isinstance(value, dict) and value.keys() >= {"value", "low", "high"}:
            yield f"| {name} | " + " | ".join(_number(value[key]) for key in ("value", "low", "high")) + " |"
    yield ""
    levels = scores["al"]
    assert isinstance(levels, list)
    yield "Mean rating by turn: " + ", ".join(map(_number, levels)) + "."
    yield ""


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "n/a"
