"""Everything a run checks and builds before its first step."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jax.sharding import Mesh

from aloe_jax.data.loader import Loader
from aloe_jax.data.mixture import Prepared, gather
from aloe_jax.data.packing import without_branches
from aloe_jax.data.sources import Split
from aloe_jax.data.template import ChatTemplate
from aloe_jax.data.tokenizer import load_tokenizer
from aloe_jax.data.tokenizer_files import save_tokenizer
from aloe_jax.errors import AloeError
from aloe_jax.models import generation
from aloe_jax.models.opening import open_model
from aloe_jax.models.run_directory import (
    TOKENIZER,
    forget_description,
    record_description,
    save_adapter,
    save_spec,
)
from aloe_jax.models.settings import ModelSettings
from aloe_jax.models.spec import ModelParts, ModelSpec, TokenizerIds, check_vocabulary
from aloe_jax.storage.copies import uploading
from aloe_jax.training.fit import check_fit
from aloe_jax.training.program import compute_of
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages.stage import Stage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST_ROW = 16_384  # tokens: up to this a better row length is looked for where rows are poorly filled


@dataclass(frozen=True)
class Material:
    """Packed data of a run."""

    train: Prepared
    validation: Prepared


def load_template(model: ModelSettings) -> tuple[PreTrainedTokenizerBase, ChatTemplate]:
    """The tokenizer and its chat template: of `model.tokenizer`, or of the model in `model.path`."""
    source = model.tokenizer or open_model(model).tokenizer
    if source is None:
        raise AloeError(
            f"model.tokenizer: {model.path} is a checkpoint of MaxText's, which holds none; give its directory"
        )
    tokenizer = load_tokenizer(source)
    return tokenizer, ChatTemplate(tokenizer)


def gather_material(settings: TrainSettings, stage: Stage, template: ChatTemplate) -> Material:
    """Read, tokenise and pack both splits; prints the progress of large ones."""
    data = settings.data

    def split(name: Split) -> Prepared:
        return gather(
            data,
            template,
            stage.selection,
            name,
            row_length=data.row_length,
            packing=data.packing,
            longest=LONGEST_ROW,
        )

    return Material(split("train"), split("validation"))


def resolve_spec(settings: TrainSettings, tokenizer: PreTrainedTokenizerBase, template: ChatTemplate) -> ModelSpec:
    """The spec of the model to train, whose replies end where those of the chat template do.

    Raises AloeError where the tokenizer has tokens that the model has not.
    """
    ids = TokenizerIds(len(tokenizer), tokenizer.bos_token_id, template.stop, tokenizer.pad_token_id)
    spec = open_model(settings.model).spec(ids)
    check_vocabulary(tokenizer, spec, "model.tokenizer")
    return spec


def resolve(settings: TrainSettings, spec: ModelSpec, mesh: Mesh, platform: str) -> TrainSettings:
    """The settings with what `auto` and -1 stand for on `platform`; these travel, and nothing is decided again.

    Raises AloeError where an attention method that was asked for cannot compute the run's rows.
    """
    data = settings.data
    attention = spec.attention_method(settings.model.attention, data.packing, data.row_length, platform)
    sizes = {axis: int(size) for axis, size in mesh.shape.items()}
    return settings.model_copy(
        update={
            "model": settings.model.model_copy(update={"attention": attention}),
            "mesh": settings.mesh.model_copy(update=sizes),
        }
    )


def check_material(settings: TrainSettings, spec: ModelSpec, material: Material, mesh: Mesh) -> None:
    """Raise AloeError where rows, model and mesh do not fit each other; `settings` are resolved."""
    splits = (material.train.rows, material.validation.rows)
    check_fit(settings, spec, splits, mesh.shape["data"] * mesh.shape["fsdp"])
    platform = mesh.devices.flat[0].platform
    if spec.why_not(settings.model.attention, "trees", settings.data.row_length, platform) is not None:
        assert without_branches(material.train.rows), "a flash kernel would let branches see each other"


def build_model(settings: TrainSettings, spec: ModelSpec, mesh: Mesh) -> ModelParts:
    """The model on the mesh, loaded from `model.path` or drawn from the seed."""
    options = settings.model
    compute = compute_of(options)
    model = open_model(options).load(options.dtype, mesh, compute, spec, settings.seed)
    if options.lora is not None:
        model = model.adapted(options.lora, settings.seed, options.dtype, mesh)
    return model.split()


def trained_shapes(settings: TrainSettings, spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The shape of every trained parameter by its dotted name: of the adapters, or of all weights."""
    return {name: weight.shape for name, weight in spec.trained(settings.model.lora).items()}


def describe_model(
    settings: TrainSettings, spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, directory: Path
) -> None:
    """Write what makes the run directory a model, besides its checkpoints."""
    forget_description(directory)
    save_spec(spec, directory)
    if settings.model.lora is not None:
        save_adapter(directory, settings.model)
    with uploading(directory / TOKENIZER) as local:
        save_tokenizer(tokenizer, local)
        if (source := open_model(settings.model).tokenizer) is not None:
            generation.keep(source, local)
    record_description(directory)


def describe_reference(settings: TrainSettings, spec: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> str:
    """What besides its weights determines a reference's log-probs: shape, precision, vocabulary and chat template."""
    vocabulary = hashlib.sha256(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest()
    return f"{spec} {settings.model.compute_dtype} {vocabulary} {tokenizer.chat_template}"


def make_loader(settings: TrainSettings, material: Material) -> Loader:
    """Batches of the training rows."""
    return Loader(material.train.rows, settings.data.rows, settings.seed, material.train.parts)


def most_turns(material: Material) -> int:
    """The largest number of a turn that has a pair, in either split."""
    return max(int(split.rows.pair_turn.max(initial=0)) for split in (material.train, material.validation))
