"""Writing a Hugging Face directory: safetensors, config.json, generation_config.json, tokenizer, model card."""

from __future__ import annotations

import json
import math
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from aloe_jax.data.tokenizer_files import TransformersTokenizer, save_tokenizer
from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from aloe_jax.models import generation
from aloe_jax.models.spec import LanguageModel, ModelSpec, check_vocabulary
from aloe_jax.models.tensor_files import INDEX, SINGLE, open_tensors
from aloe_jax.storage.disk import as_os_error
from aloe_jax.storage.files import as_path
from aloe_jax.storage.replacing import Kind, replacing

NOT_STATED = "not stated"  # of a card
# What earlier versions wrote had no digests.json.
KIND = Kind(
    "export",
    (
        r"config\.json", r"generation_config\.json", r"README\.md", r"model\.safetensors(\.index\.json)?",
        r"model-\d{5}-of-\d{5}\.safetensors", r"tokenizer(_config)?\.json", r"special_tokens_map\.json",
        r"chat_template\.jinja", r"additional_chat_templates/[^/]+\.jinja",
    ),
    (("README.md", "aloe-jax"), ("config.json", "model_type")),
)  # fmt: skip


def save_pretrained(
    model: LanguageModel,
    path: str | Path,
    max_shard_size: str | int = "5GB",
    dtype: str | None = None,
    tokenizer: TransformersTokenizer | None = None,
    card: str | None = None,
    settings: Mapping[str, JSON] | None = None,
) -> None:
    """Write a Hugging Face directory that transformers and other servers load.

    `dtype`: of the stored weights, by default the model's own. `tokenizer`: a transformers tokenizer, saved beside
    the weights. `card`: the README.md, by default a short one. `settings`: a generation_config.json, whose defaults
    of sampling are kept. The files are written beside `path`, read back, compared by checksum, and replace it; a
    directory that an earlier export wrote is replaced. Raises AloeError when `path` has anything else in it, when the
    tokenizer is larger than the model's vocabulary, when the disk is full, or when what was read back differs.
    """
    limit = size_in_bytes(max_shard_size)
    if tokenizer is not None:
        check_vocabulary(tokenizer, model.spec, str(path))
    stored = str(jnp.dtype(dtype or jax.tree.leaves(nnx.state(model, nnx.Param))[0].dtype))
    if jax.process_index() != 0:  # of several hosts, one writes
        for _ in model.stored_tensors(jnp.dtype(stored)):  # all take part in bringing the weights to it
            pass
        return
    with replacing(path, KIND, last="config.json") as directory:
        sums = _write_tensors(model, directory, limit, stored)
        spec = model.spec
        write_json(directory / "config.json", {**spec.to_huggingface(), "dtype": stored, "torch_dtype": stored})
        write_json(directory / generation.FILE, generation.merged(spec, settings or {}))
        if tokenizer is not None:
            save_tokenizer(tokenizer, directory, spec.vocab)
        (directory / "README.md").write_text(card if card is not None else short_card(spec))
        for file in directory.glob("*.safetensors"):  # made for the owner only
            shutil.copymode(directory / "config.json", file)
        _verify(directory, as_path(path), sums)


def size_in_bytes(size: str | int) -> int:
    """5GB, 200MB or 4096: decimal units, as in transformers. AloeError on anything else."""
    if isinstance(size, int):
        return size
    units = {"GB": 10**9, "MB": 10**6, "KB": 10**3}
    number, unit = size[:-2], size[-2:].upper()
    try:
        value = int(size) if size.isdigit() else int(float(number) * units[unit])
    except (KeyError, ValueError):
        raise AloeError(f"max_shard_size {size!r}: write a number of KB, MB or GB, for instance 5GB") from None
    if value <= 0:
        raise AloeError(f"max_shard_size {size!r}: must be positive")
    return value


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Indented JSON with a newline at the end."""
    path.write_text(json.dumps(values, indent=2) + "\n")


def _write_tensors(model: LanguageModel, directory: Path, limit: int, dtype: str) -> dict[str, int]:
    """Write all shards and the index; returns a checksum for every key."""
    sizes = {key: math.prod(shape) * jnp.dtype(dtype).itemsize for key, shape in model.spec.stored_shapes().items()}
    shards = _plan(sizes, limit)
    single = len(shards) == 1
    names = [SINGLE if single else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    sums: dict[str, int] = {}
    shard: dict[str, np.ndarray] = {}
    current = 0
    for key, tensor in model.stored_tensors(jnp.dtype(dtype)):
        shard[key] = tensor
        sums[key] = zlib.crc32(tensor.view(np.uint8).data)
        if key == shards[current][-1]:
            with as_os_error():
                save_file(shard, str(directory / names[current]), metadata={"format": "pt"})
            shard = {}
            current += 1
    if not single:
        file_of = {key: file for file, keys in zip(names, shards, strict=True) for key in keys}
        write_json(directory / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": file_of})
    return sums


def _plan(sizes: dict[str, int], limit: int) -> list[list[str]]:
    """Keys by shard, in order; a shard passes the limit only where one tensor alone does."""
    shards: list[list[str]] = [[]]
    used = 0
    for key, size in sizes.items():
        if shards[-1] and used + size > limit:
            shards.append([])
            used = 0
        shards[-1].append(key)
        used += size
    return shards


def _verify(directory: Path, path: Path, sums: dict[str, int]) -> None:
    tensors = open_tensors(directory)
    for key, expected in sums.items():
        stored = tensors.get(key)
        if stored is None or zlib.crc32(stored.array.reshape(-1).view(np.uint8).data) != expected:
            raise AloeError(f"{path}: {key} read back differs from the model; check the disk and export again")
        stored.forget(stored.array)


def short_card(spec: ModelSpec) -> str:
    """A card for a model of which nothing but its shape is known."""
    return (
        front_matter(NOT_STATED)
        + f"# {spec.title}-architecture decoder, {spec.parameter_count():,} parameters\n\n"
        + f"Written by aloe-jax. Training: {NOT_STATED}. Licence: {NOT_STATED}.\n"
    )


def front_matter(licence: str) -> str:
    """What the Hub reads of a card, with the licence where it is stated."""
    stated = [] if licence == NOT_STATED else [f"license: {licence}"]
    return "\n".join(["---", *stated, "library_name: transformers", "pipeline_tag: text-generation", "---", "", ""])
