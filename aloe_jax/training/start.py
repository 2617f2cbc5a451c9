"""Everything a run checks and builds before its first step."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from aloe_jax import config
from aloe_jax.data.dataset import read_conversations
from aloe_jax.data.packing import Rows
from aloe_jax.data.prepare import Prepared, prepare
from aloe_jax.data.template import ChatTemplate
from aloe_jax.data.tokenizer import load_tokenizer
from aloe_jax.errors import AloeError
from aloe_jax.models import (
    Compute,
    Decoder,
    ModelSpec,
    check_vocabulary,
    huggingface,
    is_huggingface,
    load_pretrained,
    parameter_shardings,
    tokenizer_directory,
)
from aloe_jax.models.lora import Adapter, adapters, attach
from aloe_jax.models.run_directory import load_spec, write_atomically
from aloe_jax.models.weights import weights
from aloe_jax.training.step import Frozen, Params

CONFIG = "config.yaml"
# What a resumed run may change; anything else would make it another run.
HELD_BITS = {"int8": 8.5, "int4": 4.5, "nf4": 4.5}  # a weight of an adapted matrix, its share of a scale included
FREE = {"output", "log_every", "evaluate_every", "checkpoints", "mesh"}


def claim_directory(settings: config.Train) -> Path:
    """Make the run directory and save the resolved config in it.

    Raises AloeError when it holds a run with other settings, naming the first one that differs.
    """
    directory = Path(settings.output)
    saved = directory / CONFIG
    if saved.exists():
        before = config.load(config.Train, saved)
        for key, (old, new) in _differences(before.model_dump(), settings.model_dump()).items():
            if key.split(".")[0] not in FREE:
                raise AloeError(
                    f"{saved}: this run has {key}: {old!r}, now it would be {new!r}; "
                    "give another output, or restore the setting to resume"
                )
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(saved, config.dump(settings))
    return directory


def _differences(old: Any, new: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for name in old.keys() | new.keys():
            found |= _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        return found
    return {} if old == new else {key: (old, new)}


@dataclass(frozen=True)
class Material:
    """Tokenizer and packed data of a run."""

    tokenizer: Any
    template: ChatTemplate
    train: Prepared
    validation: Prepared


def gather_material(settings: config.Train) -> Material:
    """Load the tokenizer and both splits, and pack them; prints what became of the trees."""
    source = settings.model.tokenizer or tokenizer_directory(settings.model.path or "")
    tokenizer = load_tokenizer(source)
    template = ChatTemplate(tokenizer)
    replies = settings.sft.replies if settings.stage == "sft" else None

    def split(name: str, limit: int | None) -> Prepared:
        conversations = read_conversations(settings.data.path, name, limit)
        made = prepare(conversations, template, settings.data.row_length, replies, settings.data.path)
        click.echo(f"{name}: {made.report}")
        return made

    return Material(
        tokenizer,
        template,
        split("train", settings.data.limit),
        split("validation", settings.data.validation_limit),
    )


def resolve_spec(settings: config.Train, tokenizer: Any, template: ChatTemplate) -> ModelSpec:
    """The spec of the model to train: from `model.path`, or of a new one of `model.architecture`."""
    if settings.model.path is not None:
        path = Path(settings.model.path)
        return huggingface.read_spec(path) if is_huggingface(path) else load_spec(path)
    return ModelSpec.from_architecture(
        settings.model.architecture,
        vocab=len(tokenizer),
        bos_id=tokenizer.bos_token_id,
        eos_ids=template.stop,
        pad_id=tokenizer.pad_token_id,
    )


def check_fit(settings: config.Train, spec: ModelSpec, material: Material, mesh: Mesh) -> None:
    """Raise AloeError where tokenizer, rows, model and mesh do not fit each other."""
    check_vocabulary(material.tokenizer, spec, "model.tokenizer")
    longest = int(max(material.train.rows.positions.max(), material.validation.rows.positions.max())) + 1
    if longest > spec.max_length:
        raise AloeError(
            f"data.row_length: the longest conversation has {longest} tokens on one path, the model's maximum is "
            f"{spec.max_length}; lower data.row_length to {spec.max_length}"
        )
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if settings.data.rows % shards:
        raise AloeError(
            f"data.rows: {settings.data.rows} rows a step cannot be split over {shards} devices "
            f"(mesh data x fsdp); give a multiple of {shards}"
        )


def build_model(settings: config.Train, spec: ModelSpec, mesh: Mesh) -> tuple[nnx.GraphDef, Params, Frozen]:
    """Graph, trained parameters and the frozen ones on the mesh, loaded from `model.path` or drawn from the seed."""
    options = settings.model
    compute = Compute(options.attention, options.remat, options.unroll, options.compute_dtype)
    if options.path is not None:
        model = load_pretrained(options.path, dtype=options.dtype, mesh=mesh, compute=compute)
        if options.lora is not None:
            attach(model, options.lora, settings.seed, options.dtype, mesh)
            graph, *parts = nnx.split(model, Adapter, nnx.Param)
            trained, rest = (nnx.to_pure_dict(part) for part in parts)
            return graph, trained, (rest,)
        graph, params = nnx.split(model, nnx.Param)
        return graph, nnx.to_pure_dict(params), ()

    def new() -> Decoder:
        return Decoder(spec, rngs=nnx.Rngs(settings.seed), dtype=options.dtype, compute=compute)

    graph, _ = nnx.split(nnx.eval_shape(new), nnx.Param)
    draw = jax.jit(lambda: nnx.to_pure_dict(nnx.state(new(), nnx.Param)), out_shardings=parameter_shardings(spec, mesh))
    return graph, draw(), ()


def trained_shapes(settings: config.Train, spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The shape of every trained parameter by its dotted name: of the adapters, or of all weights."""
    if settings.model.lora is None:
        return {name: weight.shape for name, weight in weights(spec).items()}
    return {f"adapters.{name}": weight.shape for name, weight in adapters(spec, settings.model.lora).items()}


def describe_reference(spec: ModelSpec, tokenizer: Any) -> str:
    """What besides its weights determines a reference's log-probs: shape, vocabulary and chat template."""
    vocabulary = hashlib.sha256(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest()
    return f"{spec} {vocabulary} {tokenizer.chat_template}"


def attended_pairs(rows: Rows) -> int:
    """(query, key) pairs that the mask lets through: every token sees its own path. Padding does not count."""
    real = np.arange(rows.tokens.shape[1]) < rows.length[:, None]
    return int((rows.positions.astype(np.int64) + 1).sum(where=real))


def plan(settings: config.Train, spec: ModelSpec, material: Material, mesh: Mesh, steps: int) -> str:
    """What a run would do, as text: size, memory for state, steps and tokens."""
    count, shards = spec.parameter_count(), mesh.shape["fsdp"] * mesh.shape["tensor"]
    width = 4 if settings.model.dtype == "float32" else 2
    lora = settings.model.lora
    trained = sum(math.prod(shape) for shape in trained_shapes(settings, spec).values())
    state = trained * width * 4 / shards  # parameters, gradients and AdamW's two moments
    if lora is not None:
        state += count * HELD_BITS.get(lora.base, 8 * width) / 8 / shards
    tokens = settings.data.rows * settings.data.row_length
    report = material.train.report
    per_row = spec.forward_flops(report.tokens, attended_pairs(material.train.rows)) // report.rows
    return "\n".join(
        [
            f"model       {count:,} parameters, {spec.layers} layers, {spec.width} wide, {spec.vocab} tokens",
            *([f"adapters    {trained:,} parameters of rank {lora.rank}, base {lora.base}"] if lora else []),
            f"mesh        {dict(mesh.shape)} of {jax.devices()[0].device_kind}",
            f"state       {state / 2**30:.2f} GiB a device for weights, gradients, optimizer (activations not counted)",
            f"data        {report}",
            f"step        {settings.data.rows} rows x {settings.data.row_length} = {tokens:,} tokens, "
            f"{3 * per_row * settings.data.rows:.2e} FLOPs",
            f"run         {steps} steps, {steps * settings.data.rows / report.rows:.1f} passes over the data",
        ]
    )


def progress_to(what: str) -> Callable[[int, int], None]:
    """A progress callback (done, total) that prints about ten lines."""

    def tell(done: int, total: int) -> None:
        if done == total or done % max(1, total // 10) == 0:
            click.echo(f"{what}: {done}/{total} batches")

    return tell
