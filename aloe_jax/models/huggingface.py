"""Hugging Face directories: safetensors, config.json, tokenizer, model card; read and written.

One table of keys a family serves both directions.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh, SingleDeviceSharding
from safetensors.numpy import save_file

from aloe_jax.data.tokenizer_files import save_tokenizer
from aloe_jax.errors import AloeError
from aloe_jax.models import generation
from aloe_jax.models.decoder import Compute, Decoder, assemble
from aloe_jax.models.families import keys, resembling
from aloe_jax.models.model_card import short_card
from aloe_jax.models.placement import Source, place
from aloe_jax.models.spec import ModelSpec, check_vocabulary
from aloe_jax.models.tensor_files import (
    DTYPES,
    INDEX,
    SINGLE,
    Stored,
    check_weights,
    open_tensors,
    other_head,
    read_json,
    say_once,
)
from aloe_jax.models.weights import Weight, nested, weight_sharding, weights
from aloe_jax.storage.copies import local_copy
from aloe_jax.storage.disk import as_os_error
from aloe_jax.storage.files import as_path, is_remote
from aloe_jax.storage.replacing import Kind, replacing

MOST_THREADS = 16  # that read files
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


def load_huggingface(
    path: str | Path, dtype: str = "float32", mesh: Mesh | None = None, compute: Compute | None = None
) -> Decoder:
    """The model in a Hugging Face directory, its parameters in `dtype`, laid out over `mesh` where one is given.

    The files are mapped, and every device reads its own part. Raises AloeError naming the file, the key and what was
    expected: a file missing, cut short or a pickle, a tensor missing, left over, of another shape or type, with NaN
    or infinity in it, a model of another family.
    """
    given, path = path, local_copy(path)
    spec = read_spec(path)
    if is_remote(given) and spec != read_spec(path, weights_there=False):
        raise AloeError(
            f"{given}: config.json ties the head to the embedding, but the weights have another head; set "
            "tie_word_embeddings to false in config.json to use it"
        )
    described = weights(spec)
    tensors = open_tensors(path)
    _check_tensors(path, tensors, described, spec)
    check_weights(path)
    table = keys(spec.family)
    alone = SingleDeviceSharding(jax.devices()[0])
    streamed = layer_by_layer()
    values = {}
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        for name, weight in described.items():
            pattern, inputs = table[name]
            stored = [tensors[key] for key, _ in stored_keys(name, weight, spec.family)]
            source = Source(stored, weight.shape, "{}" in pattern, inputs, dtype)
            sharding = alone if mesh is None else weight_sharding(weight, mesh)
            values[name] = place(source, sharding, pool, streamed)
    return assemble(spec, nested(values), compute)


def layer_by_layer() -> bool:
    """Whether the host should hold one layer of a weight at a time: not where its memory is the device's."""
    return jax.devices()[0].platform != "cpu"


def read_spec(path: Path, weights_there: bool = True) -> ModelSpec:
    """The spec in `path`/config.json; a generation_config.json adds the ids that end a reply, and the padding's.

    Where config.json ties the head to the embedding and the weights, if they are there, hold another head, the spec
    is not tied: that head was trained, and is computed with.
    """
    spec = ModelSpec.from_huggingface(read_json(path / "config.json"), str(path / "config.json"))
    spec = generation.with_settings(spec, generation.read(path))
    if weights_there and spec.tie_embeddings and other_head(path):
        say_once(f"{path}: config.json ties the head to the embedding, but the weights have another head; it is used")
        spec = dataclasses.replace(spec, tie_embeddings=False)
    return spec


def save_pretrained(
    model: Decoder,
    path: str | Path,
    max_shard_size: str | int = "5GB",
    dtype: str | None = None,
    tokenizer: Any = None,
    card: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write a Hugging Face directory that transformers and other servers load.

    `dtype`: of the stored weights, by default the model's own. `tokenizer`: a transformers tokenizer, saved beside
    the weights. `card`: the README.md, by default a short one. `settings`: a generation_config.json, whose defaults
    of sampling are kept. The files are written beside `path`, read back, compared by checksum, and take its place; a
    directory that an earlier export wrote is replaced. Raises AloeError when `path` holds anything else, when the
    tokenizer is larger than the model's vocabulary, when the disk is full, or when what was read back differs.
    """
    limit = size_in_bytes(max_shard_size)
    if tokenizer is not None:
        check_vocabulary(tokenizer, model.spec, str(path))
    stored = str(jnp.dtype(dtype or jax.tree.leaves(nnx.state(model, nnx.Param))[0].dtype))
    if jax.process_index() != 0:  # of several hosts, one writes
        for _ in stored_tensors(model, jnp.dtype(stored)):  # all take part in bringing the weights to it
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


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Indented JSON with a newline at the end."""
    path.write_text(json.dumps(values, indent=2) + "\n")


# ---------------------------------------------------------------- reading


def _check_tensors(path: Path, tensors: dict[str, Stored], described: dict[str, Weight], spec: ModelSpec) -> None:
    """Raise AloeError unless the files hold what `spec` describes: every tensor, in its shape, and no other."""
    family = spec.family
    expected = {key: shape for name, weight in described.items() for key, shape in stored_keys(name, weight, family)}
    alike = resembling(tensors)
    hint = f"; the tensors are those of {' or '.join(alike)}" if alike and family not in alike else ""
    for key, shape in expected.items():
        if key not in tensors:
            raise AloeError(f"{path}: tensor {key} {list(shape)} is missing from the safetensors files{hint}")
        stored = tensors[key]
        if stored.dtype not in DTYPES:
            raise AloeError(f"{stored.file}: tensor {key} is stored as {stored.dtype}; supported: {', '.join(DTYPES)}")
        if stored.shape != shape:
            raise AloeError(
                f"{stored.file}: tensor {key} is {list(stored.shape)}, config.json makes it {list(shape)}{hint}"
            )
    for key, stored in tensors.items():
        copy_of_embedding = spec.tie_embeddings and key == keys(family)["head"][0]
        if key not in expected and not copy_of_embedding and not key.endswith("rotary_emb.inv_freq"):
            raise AloeError(
                f"{stored.file}: tensor {key} has no place in a {family} of {spec.layers} layers by config.json" + hint
            )


def stored_keys(name: str, weight: Weight, family: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The keys that one of our weights is stored under there, with their shapes; one a layer where stacked."""
    pattern, inputs = keys(family)[name]
    stacked = "{}" in pattern
    shape = weight.shape[1:] if stacked else weight.shape
    if inputs:
        shape = (math.prod(shape[inputs:]), math.prod(shape[:inputs]))
    for layer in range(weight.shape[0] if stacked else 1):
        yield pattern.format(layer), shape


# ---------------------------------------------------------------- writing


def _write_tensors(model: Decoder, directory: Path, limit: int, dtype: str) -> dict[str, int]:
    """Write all shards and the index; returns a checksum for every key."""
    sizes = {key: math.prod(shape) * jnp.dtype(dtype).itemsize for key, shape in stored_shapes(model.spec).items()}
    shards = _plan(sizes, limit)
    single = len(shards) == 1
    names = [SINGLE if single else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    sums: dict[str, int] = {}
    held: dict[str, np.ndarray] = {}
    current = 0
    for key, tensor in stored_tensors(model, jnp.dtype(dtype)):
        held[key] = tensor
        sums[key] = zlib.crc32(tensor.view(np.uint8).data)
        if key == shards[current][-1]:
            with as_os_error():
                save_file(held, str(directory / names[current]), metadata={"format": "pt"})
            held = {}
            current += 1
    if not single:
        places = {key: file for file, keys in zip(names, shards, strict=True) for key in keys}
        write_json(directory / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places})
    return sums


def stored_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a model by its key there."""
    if not isinstance(spec, ModelSpec):
        from aloe_jax.models.maxtext.huggingface import pieces

        return {piece.key: piece.stored for parts in pieces(spec).values() for piece in parts}
    described = weights(spec).items()
    return {key: shape for name, weight in described for key, shape in stored_keys(name, weight, spec.family)}


def stored_tensors(model: Decoder, dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of a model, in the order of `stored_shapes`; the host holds one weight at a time."""
    if not isinstance(model.spec, ModelSpec):
        from aloe_jax.models.maxtext.huggingface import tensors

        yield from tensors(model, dtype, _host)
        return
    parameters = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    for name, weight in weights(model.spec).items():
        yield from _tensors(name, weight, _host(_leaf(parameters, name)), dtype, model.spec.family)


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


def _tensors(
    name: str, weight: Weight, host: np.ndarray, dtype: np.dtype, family: str
) -> Iterator[tuple[str, np.ndarray]]:
    pattern, inputs = keys(family)[name]
    parts = host if "{}" in pattern else host[None]
    for part, (key, shape) in zip(parts, stored_keys(name, weight, family), strict=True):
        tensor = part.reshape(shape[::-1]).T if inputs else part
        yield key, np.ascontiguousarray(tensor.astype(dtype))


def _leaf(tree: dict[str, Any], name: str) -> jax.Array:
    for part in name.split("."):
        tree = tree[part]
    return tree  # type: ignore[return-value]


def _host(value: jax.Array) -> np.ndarray:
    if not value.is_fully_addressable:
        value = multihost_utils.process_allgather(value, tiled=True)
    return np.asarray(value)


def _verify(directory: Path, path: Path, sums: dict[str, int]) -> None:
    tensors = open_tensors(directory)
    for key, expected in sums.items():
        stored = tensors.get(key)
        if stored is None or zlib.crc32(stored.array.reshape(-1).view(np.uint8).data) != expected:
            raise AloeError(f"{path}: {key} read back differs from the model; check the disk and export again")
        stored.forget(stored.array)
