"""Hugging Face directories: safetensors, config.json, tokenizer, model card; read and written.

One table of keys serves both directions. Weights pass through host memory one (stacked) weight at a time.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from aloe_jax.errors import AloeError
from aloe_jax.models.decoder import Compute, Decoder, assemble
from aloe_jax.models.model_card import short_card
from aloe_jax.models.spec import ModelSpec, token_ids
from aloe_jax.models.weights import Weight, nested, weight_sharding, weights

# Our name -> (Hugging Face's key, how many of our leading axes are inputs of the matrix). Linear layers are stored
# there as [outputs, inputs], so those are transposed; 0: stored as it is.
KEYS: dict[str, tuple[str, int]] = {
    "embedding": ("model.embed_tokens.weight", 0),
    "layers.attention_norm": ("model.layers.{}.input_layernorm.weight", 0),
    "layers.query": ("model.layers.{}.self_attn.q_proj.weight", 1),
    "layers.key": ("model.layers.{}.self_attn.k_proj.weight", 1),
    "layers.value": ("model.layers.{}.self_attn.v_proj.weight", 1),
    "layers.output": ("model.layers.{}.self_attn.o_proj.weight", 2),
    "layers.feed_forward_norm": ("model.layers.{}.post_attention_layernorm.weight", 0),
    "layers.gate": ("model.layers.{}.mlp.gate_proj.weight", 1),
    "layers.up": ("model.layers.{}.mlp.up_proj.weight", 1),
    "layers.down": ("model.layers.{}.mlp.down_proj.weight", 1),
    "final_norm": ("model.norm.weight", 0),
    "head": ("lm_head.weight", 1),
}
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def load_huggingface(
    path: str | Path, dtype: str = "float32", mesh: Mesh | None = None, compute: Compute | None = None
) -> Decoder:
    """The model in a Hugging Face directory, its parameters in `dtype`, laid out over `mesh` where one is given.

    Raises AloeError naming the file, the key and what was expected: a file missing or cut short, a tensor missing,
    left over or of another shape, a model of another family.
    """
    path = Path(path)
    spec = read_spec(path)
    described = weights(spec)
    with ExitStack() as stack:
        tensors = _open(path, stack)
        _check_keys(path, tensors, described, spec)
        values = {}
        for name, weight in described.items():
            host = _read(tensors, name, weight, jnp.dtype(dtype))
            if mesh is None:
                values[name] = jnp.asarray(host)
            else:  # every device receives its part only
                place = weight_sharding(weight, mesh)
                values[name] = jax.make_array_from_callback(weight.shape, place, host.__getitem__)
    return assemble(spec, nested(values), compute)


def read_spec(path: Path) -> ModelSpec:
    """The spec in `path`/config.json; a generation_config.json adds the ids that end a reply."""
    spec = ModelSpec.from_huggingface(_read_json(path / "config.json"), str(path / "config.json"))
    if (path / "generation_config.json").exists():
        more = token_ids(_read_json(path / "generation_config.json").get("eos_token_id"))
        spec = ModelSpec(**{**vars(spec), "eos_ids": tuple(dict.fromkeys((*spec.eos_ids, *more)))})
    return spec


def save_pretrained(
    model: Decoder,
    path: str | Path,
    max_shard_size: str | int = "5GB",
    dtype: str | None = None,
    tokenizer: Any = None,
    card: str | None = None,
) -> None:
    """Write a Hugging Face directory that transformers and other servers load.

    `dtype`: of the stored weights, by default the model's own. `tokenizer`: a transformers tokenizer, saved beside
    the weights. `card`: the README.md, by default a short one. The files are written beside `path`, read back,
    compared by checksum, and renamed; a directory that an earlier export wrote is replaced. Raises AloeError when
    `path` holds anything else, or when what was read back differs.
    """
    path = Path(path)
    limit = size_in_bytes(max_shard_size)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    leader = jax.process_index() == 0  # of several hosts, one writes
    if leader:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    try:
        stored = str(jnp.dtype(dtype or model.embedding[...].dtype))
        sums = _write_tensors(model, temporary, limit, stored, leader)
        if not leader:
            return
        spec = model.spec
        config_json = {**spec.to_huggingface(), "dtype": stored, "torch_dtype": stored}
        write_json(temporary / "config.json", config_json)
        generation = {
            "bos_token_id": spec.bos_id,
            "eos_token_id": list(spec.eos_ids),
            "pad_token_id": spec.pad_id,
        }
        write_json(temporary / "generation_config.json", {k: v for k, v in generation.items() if v not in (None, [])})
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        (temporary / "README.md").write_text(card if card is not None else short_card(spec))
        for file in temporary.glob("*.safetensors"):  # made for the owner only
            shutil.copymode(temporary / "config.json", file)
        _verify(temporary, path, sums)
        _replace(temporary, path)
    finally:
        if leader:
            shutil.rmtree(temporary, ignore_errors=True)


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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise AloeError(f"{path}: not found; give the directory of a Hugging Face model") from None
    except (OSError, ValueError) as error:
        raise AloeError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(values, dict):
        raise AloeError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def _open(path: Path, stack: ExitStack) -> dict[str, tuple[Path, Any]]:
    """Every tensor's key with its file, opened (memory-mapped) until `stack` closes."""
    if (path / INDEX).exists():
        wanted = _read_json(path / INDEX).get("weight_map")
        if not isinstance(wanted, dict):
            raise AloeError(f"{path / INDEX}: has no weight_map")
        files = [path / name for name in sorted(set(wanted.values()))]
    else:
        wanted, files = {}, [path / SINGLE]
    tensors: dict[str, tuple[Path, Any]] = {}
    for file in files:
        try:
            opened = stack.enter_context(safe_open(str(file), "np"))
        except FileNotFoundError:
            named = f"{INDEX} names it" if wanted else "only safetensors weights are read"
            raise AloeError(f"{file}: not found, and {named}; copy the whole model directory") from None
        except (SafetensorError, OSError) as error:
            raise AloeError(f"{file}: not a whole safetensors file ({error}); copy it again") from None
        tensors.update({key: (file, opened) for key in opened.keys()})  # noqa: SIM118 - not a dict
    for key, name in wanted.items():
        if key not in tensors or tensors[key][0].name != name:
            raise AloeError(f"{path / name}: tensor {key} is missing, and {INDEX} places it there; copy it again")
    return tensors


def _check_keys(
    path: Path, tensors: dict[str, tuple[Path, Any]], described: dict[str, Weight], spec: ModelSpec
) -> None:
    expected = {key: shape for name, weight in described.items() for key, shape in _keys(name, weight)}
    for key, shape in expected.items():
        if key not in tensors:
            raise AloeError(f"{path}: tensor {key} {list(shape)} is missing from the safetensors files")
        file, opened = tensors[key]
        found = tuple(opened.get_slice(key).get_shape())
        if found != shape:
            raise AloeError(f"{file}: tensor {key} is {list(found)}, config.json makes it {list(shape)}")
    for key, (file, _) in tensors.items():
        copy_of_embedding = spec.tie_embeddings and key == KEYS["head"][0]
        if key not in expected and not copy_of_embedding and not key.endswith("rotary_emb.inv_freq"):
            raise AloeError(f"{file}: tensor {key} has no place in a llama of {spec.layers} layers by config.json")


def _keys(name: str, weight: Weight) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The keys that one of our weights is stored under there, with their shapes; one a layer where stacked."""
    pattern, inputs = KEYS[name]
    stacked = "{}" in pattern
    shape = weight.shape[1:] if stacked else weight.shape
    if inputs:
        shape = (math.prod(shape[inputs:]), math.prod(shape[:inputs]))
    for layer in range(weight.shape[0] if stacked else 1):
        yield pattern.format(layer), shape


def _read(tensors: dict[str, tuple[Path, Any]], name: str, weight: Weight, dtype: np.dtype) -> np.ndarray:
    pattern, inputs = KEYS[name]
    host = np.empty(weight.shape, dtype)
    parts = host if "{}" in pattern else host[None]
    for part, (key, _) in zip(parts, _keys(name, weight), strict=True):
        stored = tensors[key][1].get_tensor(key)
        part[...] = (stored.T if inputs else stored).reshape(part.shape)
    return host


# ---------------------------------------------------------------- writing


def _write_tensors(model: Decoder, directory: Path, limit: int, dtype: str, write: bool) -> dict[str, int]:
    """Write all shards and the index; returns a checksum for every key."""
    described = weights(model.spec)
    item = jnp.dtype(dtype).itemsize
    sizes = {key: math.prod(shape) * item for name, weight in described.items() for key, shape in _keys(name, weight)}
    shards = _plan(sizes, limit)
    single = len(shards) == 1
    names = [SINGLE if single else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    parameters = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    sums: dict[str, int] = {}
    held: dict[str, np.ndarray] = {}
    current = 0
    for name, weight in described.items():
        for key, tensor in _tensors(name, weight, _host(_leaf(parameters, name)), jnp.dtype(dtype)):
            held[key] = tensor
            sums[key] = zlib.crc32(tensor.view(np.uint8).data)
            if key == shards[current][-1]:
                if write:
                    save_file(held, str(directory / names[current]), metadata={"format": "pt"})
                held = {}
                current += 1
    if not single and write:
        places = {key: file for file, keys in zip(names, shards, strict=True) for key in keys}
        write_json(directory / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places})
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


def _tensors(name: str, weight: Weight, host: np.ndarray, dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
    pattern, inputs = KEYS[name]
    parts = host if "{}" in pattern else host[None]
    for part, (key, shape) in zip(parts, _keys(name, weight), strict=True):
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
    with ExitStack() as stack:
        tensors = _open(directory, stack)
        for key, expected in sums.items():
            found = tensors[key][1].get_tensor(key) if key in tensors else None
            if found is None or zlib.crc32(np.ascontiguousarray(found).view(np.uint8).data) != expected:
                raise AloeError(f"{path}: {key} read back differs from the model; check the disk and export again")


def _replace(temporary: Path, path: Path) -> None:
    """Rename over `path`, which must be absent, empty, or hold only what an export writes."""
    if path.exists():
        written = {file.name for file in temporary.iterdir()}
        foreign = [
            file.name
            for file in (path.iterdir() if path.is_dir() else [path])
            if file.name not in written and not (file.name.startswith("model") and "safetensors" in file.name)
        ]
        if foreign:
            raise AloeError(f"{path}: holds {sorted(foreign)[0]}, which no export wrote; give another directory")
        shutil.rmtree(path)
    os.replace(temporary, path)
