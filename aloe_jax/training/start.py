"""Everything a run checks and builds before its first step."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from flax import nnx
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
from aloe_jax.models import backend, generation
from aloe_jax.models.decoder import Compute
from aloe_jax.models.directory import is_huggingface, load_pretrained, tokenizer_directory
from aloe_jax.models.lora import Adapter, adapters, attach
from aloe_jax.models.maxtext.directory import items
from aloe_jax.models.run_directory import (
    TOKENIZER,
    forget_description,
    load_spec,
    record_description,
    save_adapter,
    save_spec,
)
from aloe_jax.models.settings import Attention, ModelSettings
from aloe_jax.models.spec import ModelSpec, check_vocabulary
from aloe_jax.models.weights import weights
from aloe_jax.storage.files import as_path, uploading
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.step import Frozen, Params

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
    if settings.model.tokenizer is None and is_maxtext(settings.model):
        raise AloeError(
            f"model.tokenizer: {settings.model.path} is a checkpoint of MaxText's, which holds none; give its directory"
        )
    source = settings.model.tokenizer or tokenizer_directory(settings.model.path or "")
    tokenizer = load_tokenizer(source)
    template = ChatTemplate(tokenizer)
    replies = settings.sft.replies if settings.stage == "sft" else None

    def split(name: Split) -> Prepared:
        return gather(settings.data, template, replies, name, longest=LONGEST_ROW)

    return Material(tokenizer, template, split("train"), split("validation"))


def is_maxtext(model: ModelSettings) -> bool:
    """Whether `model.path` is a checkpoint that MaxText wrote. Raises AloeError where backend or name do not fit it."""
    if model.path is None:
        return False
    found = items(model.path) is not None
    if found and model.backend != "maxtext":
        raise AloeError(
            f"model.backend: {model.path} is a checkpoint of MaxText's; set maxtext, and model.name to what it is of"
        )
    if found and model.name is None:
        raise AloeError(
            f"model.name: {model.path} does not say of which of MaxText's models it is; give its name, such as "
            "llama3.1-8b, and in model.overrides what it was saved with besides"
        )
    if not found:
        is_huggingface(model.path)  # raises where it is no model at all
    if not found and model.name is not None:
        raise AloeError(f"model.name: {model.path} says which model it is; leave the name out")
    return found


def resolve_spec(settings: TrainSettings, tokenizer: Any, template: ChatTemplate) -> ModelSpec:
    """The spec of the model to train: from `model.path`, or of a new one or of a checkpoint of MaxText's."""
    if settings.model.path is not None and not is_maxtext(settings.model):
        path = as_path(settings.model.path)
        spec = backend.read_huggingface_spec(path, settings.model) if is_huggingface(path) else load_spec(path)
        return generation.ending(spec, template.stop)
    return backend.from_scratch(
        settings.model,
        vocab=len(tokenizer),
        bos_id=tokenizer.bos_token_id,
        eos_ids=template.stop,
        pad_id=tokenizer.pad_token_id,
    )


def check_fit(settings: TrainSettings, spec: ModelSpec, material: Material, mesh: Mesh) -> None:
    """Raise AloeError where tokenizer, rows, model and mesh do not fit each other."""
    check_vocabulary(material.tokenizer, spec, "model.tokenizer")
    longest = int(max(material.train.rows.positions.max(), material.validation.rows.positions.max())) + 1
    if longest > spec.max_length:
        raise AloeError(
            f"data.row_length: the longest conversation has {longest} tokens on one path, the model's maximum is "
            f"{spec.max_length}; lower data.row_length to {spec.max_length}"
        )
    if not isinstance(spec, ModelSpec) and attention_of(settings, spec, mesh) != "dense":
        assert without_branches(material.train.rows), "a flash kernel would let branches see each other"
    shards, parts = mesh.shape["data"] * mesh.shape["fsdp"], settings.data.accumulate
    if settings.data.rows % (shards * parts):
        over = f"{shards} devices (mesh data x fsdp)" + (f" in {parts} parts (data.accumulate)" if parts > 1 else "")
        raise AloeError(
            f"data.rows: {settings.data.rows} rows a step cannot be split over {over}; "
            f"give a multiple of {shards * parts}"
        )


def attention_of(settings: TrainSettings, spec: Any, mesh: Mesh) -> Attention:
    """What `model.attention` stands for. Raises AloeError where a kernel of MaxText's cannot compute the run's rows."""
    if isinstance(spec, ModelSpec):
        return settings.model.attention
    from aloe_jax.models.maxtext.kernels import chosen

    data, platform = settings.data, mesh.devices.flat[0].platform
    return chosen(spec, settings.model.attention, data.packing, data.row_length, platform)


def build_model(settings: TrainSettings, spec: ModelSpec, mesh: Mesh) -> tuple[nnx.GraphDef, Params, Frozen]:
    """Graph, trained parameters and the frozen ones on the mesh, loaded from `model.path` or drawn from the seed."""
    options = settings.model
    compute = Compute(attention_of(settings, spec, mesh), options.remat, options.unroll, options.compute_dtype)
    if is_maxtext(options):
        from aloe_jax.models.maxtext import checkpoints

        assert options.path is not None
        theirs: Any = checkpoints.load(options.path, cast(Any, spec), options.dtype, mesh, compute)
        graph, params = nnx.split(theirs, nnx.Param)
        return graph, nnx.to_pure_dict(params), ()
    if options.path is not None:
        model = load_pretrained(options.path, dtype=options.dtype, mesh=mesh, compute=compute, model=options)
        if options.lora is not None:
            attach(model, options.lora, settings.seed, options.dtype, mesh)
            graph, *parts = nnx.split(model, Adapter, nnx.Param)
            trained, rest = (nnx.to_pure_dict(part) for part in parts)
            return graph, trained, (rest,)
        graph, params = nnx.split(model, nnx.Param)
        return graph, nnx.to_pure_dict(params), ()

    return *backend.new_model(spec, settings.seed, options.dtype, mesh, compute), ()


def trained_shapes(settings: TrainSettings, spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The shape of every trained parameter by its dotted name: of the adapters, or of all weights."""
    if settings.model.lora is None:
        return {name: weight.shape for name, weight in weights(spec).items()}
    return {f"adapters.{name}": weight.shape for name, weight in adapters(spec, settings.model.lora).items()}


def describe_model(settings: TrainSettings, spec: ModelSpec, tokenizer: Any, directory: Path) -> None:
    """Write what makes the run directory a model, besides its checkpoints."""
    forget_description(directory)
    save_spec(spec, directory)
    if settings.model.lora is not None:
        save_adapter(directory, settings.model)
    with uploading(directory / TOKENIZER) as place:
        save_tokenizer(tokenizer, place)
        if settings.model.path is not None and not is_maxtext(settings.model):
            generation.keep(tokenizer_directory(settings.model.path), place)
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
