"""Everything a run checks and builds before its first step."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from aloe_jax.data.loader import Batch, Loader
from aloe_jax.data.mixture import gather
from aloe_jax.data.packing import without_branches
from aloe_jax.data.prepare import Prepared
from aloe_jax.data.sources import Split
from aloe_jax.data.template import ChatTemplate
from aloe_jax.data.tokenizer import load_tokenizer
from aloe_jax.data.tokenizer_files import save_tokenizer
from aloe_jax.errors import AloeError
from aloe_jax.models import generation
from aloe_jax.models.attention import Method
from aloe_jax.models.opening import open_model
from aloe_jax.models.run_directory import (
    TOKENIZER,
    forget_description,
    record_description,
    save_adapter,
    save_spec,
)
from aloe_jax.models.spec import Compute, ModelParts, ModelSpec, TokenizerIds, check_vocabulary
from aloe_jax.storage.files import uploading
from aloe_jax.training.settings import TrainSettings

LONGEST_ROW = 16_384  # tokens: up to this a better row length is looked for where rows are poorly filled


@dataclass(frozen=True)
class Material:
    """Tokenizer and packed data of a run."""

    tokenizer: Any
    template: ChatTemplate
    train: Prepared
    validation: Prepared


def gather_material(settings: TrainSettings) -> Material:
    """Load the tokenizer and both splits, and pack them; prints the progress of large ones."""
    source = settings.model.tokenizer or open_model(settings.model).tokenizer
    if source is None:
        raise AloeError(
            f"model.tokenizer: {settings.model.path} is a checkpoint of MaxText's, which holds none; give its directory"
        )
    tokenizer = load_tokenizer(source)
    template = ChatTemplate(tokenizer)
    replies = settings.sft.replies if settings.stage == "sft" else None

    def split(name: Split) -> Prepared:
        return gather(settings.data, template, replies, name, longest=LONGEST_ROW)

    return Material(tokenizer, template, split("train"), split("validation"))


def resolve_spec(settings: TrainSettings, tokenizer: Any, template: ChatTemplate) -> ModelSpec:
    """The spec of the model to train, whose replies end where those of the chat template do."""
    ids = TokenizerIds(len(tokenizer), tokenizer.bos_token_id, template.stop, tokenizer.pad_token_id)
    return open_model(settings.model).spec(ids)


def check_fit(settings: TrainSettings, spec: ModelSpec, material: Material, mesh: Mesh) -> None:
    """Raise AloeError where tokenizer, rows, model and mesh do not fit each other."""
    check_vocabulary(material.tokenizer, spec, "model.tokenizer")
    longest = int(max(material.train.rows.positions.max(), material.validation.rows.positions.max())) + 1
    if longest > spec.max_length:
        raise AloeError(
            f"data.row_length: the longest conversation has {longest} tokens on one path, the model's maximum is "
            f"{spec.max_length}; lower data.row_length to {spec.max_length}"
        )
    attention, length = attention_of(settings, spec, mesh), settings.data.row_length
    if spec.why_not(attention, "trees", length, mesh.devices.flat[0].platform) is not None:
        assert without_branches(material.train.rows), "a flash kernel would let branches see each other"
    shards, parts = mesh.shape["data"] * mesh.shape["fsdp"], settings.data.accumulate
    if settings.data.rows % (shards * parts):
        over = f"{shards} devices (mesh data x fsdp)" + (f" in {parts} parts (data.accumulate)" if parts > 1 else "")
        raise AloeError(
            f"data.rows: {settings.data.rows} rows a step cannot be split over {over}; "
            f"give a multiple of {shards * parts}"
        )


def attention_of(settings: TrainSettings, spec: ModelSpec, mesh: Mesh) -> Method:
    """What `model.attention` stands for. Raises AloeError where that cannot compute the run's rows."""
    data, platform = settings.data, mesh.devices.flat[0].platform
    return spec.attention_method(settings.model.attention, data.packing, data.row_length, platform)


def build_model(settings: TrainSettings, spec: ModelSpec, mesh: Mesh) -> ModelParts:
    """The model on the mesh, loaded from `model.path` or drawn from the seed."""
    options = settings.model
    compute = Compute(attention_of(settings, spec, mesh), options.remat, options.unroll, options.compute_dtype)
    model = open_model(options).load(options.dtype, mesh, compute, spec, settings.seed)
    if options.lora is not None:
        model = model.adapted(options.lora, settings.seed, options.dtype, mesh)
    return model.split()


def trained_shapes(settings: TrainSettings, spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The shape of every trained parameter by its dotted name: of the adapters, or of all weights."""
    return {name: weight.shape for name, weight in spec.trained(settings.model.lora).items()}


def describe_model(settings: TrainSettings, spec: ModelSpec, tokenizer: Any, directory: Path) -> None:
    """Write what makes the run directory a model, besides its checkpoints."""
    forget_description(directory)
    save_spec(spec, directory)
    if settings.model.lora is not None:
        save_adapter(directory, settings.model)
    with uploading(directory / TOKENIZER) as place:
        save_tokenizer(tokenizer, place)
        if (source := open_model(settings.model).tokenizer) is not None:
            generation.keep(source, place)
    record_description(directory)


def describe_reference(settings: TrainSettings, spec: ModelSpec, tokenizer: Any) -> str:
    """What besides its weights determines a reference's log-probs: shape, precision, vocabulary and chat template."""
    vocabulary = hashlib.sha256(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest()
    return f"{spec} {settings.model.compute_dtype} {vocabulary} {tokenizer.chat_template}"


def make_loader(settings: TrainSettings, material: Material, extra: Batch | None = None) -> Loader:
    """Batches of the training rows; `extra` has further arrays with an entry a row."""
    return Loader(material.train.rows, settings.data.rows, settings.seed, extra, material.train.parts)


def most_turns(material: Material) -> int:
    """The largest number of a turn that has a pair, in either split."""
    return max(int(split.rows.pair_turn.max(initial=0)) for split in (material.train, material.validation))
