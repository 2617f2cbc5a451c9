"""The tensors of a decoder in safetensors files: read into its weights, and made of them again.

One table of keys a family (families.py) serves both directions.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from aloe_jax.models.native.families import keys, resembling
from aloe_jax.models.native.placement import StoredWeight, put_on_devices
from aloe_jax.models.native.shape import DecoderShape
from aloe_jax.models.tensor_files import check_tensors, check_weights, open_tensors
from aloe_jax.models.weights import Weight, on_host, weight_sharding

MOST_THREADS = 16  # that read files


def read_weights(shape: DecoderShape, path: Path, dtype: str, mesh: Mesh | None) -> dict[str, jax.Array]:
    """The weights in a local directory by dotted name, in `dtype`, laid out over `mesh` where one is given.

    The files are mapped, and every device reads its own part. See `ModelSpec.load_huggingface` for what is raised.
    """
    described = shape.weights()
    tensors = open_tensors(path)
    table = keys(shape.family)
    alike = resembling(tensors)
    hint = f"; the tensors are those of {' or '.join(alike)}" if alike and shape.family not in alike else ""
    copy = table["head"][0] if shape.tie_embeddings else None  # of the embedding
    check_tensors(path, tensors, stored_shapes(shape), f"{shape.family} of {shape.layers} layers", copy, hint)
    check_weights(path)
    streamed = layer_by_layer()
    values = {}
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        for name, weight in described.items():
            pattern, inputs = table[name]
            stored = [tensors[key] for key, _ in stored_keys(name, weight, shape.family)]
            source = StoredWeight(stored, weight.shape, "{}" in pattern, inputs, dtype)
            values[name] = put_on_devices(source, weight_sharding(weight, mesh), pool, streamed)
    return values


def stored_shapes(shape: DecoderShape) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor by its key."""
    described = shape.weights().items()
    return {key: size for name, weight in described for key, size in stored_keys(name, weight, shape.family)}


def stored_tensors(
    shape: DecoderShape, weights: dict[str, jax.Array], dtype: np.dtype
) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor, in the order of `stored_shapes`; the host has one weight at a time."""
    for name, weight in shape.weights().items():
        pattern, inputs = keys(shape.family)[name]
        host = on_host(weights[name])
        parts = host if "{}" in pattern else host[None]
        for part, (key, size) in zip(parts, stored_keys(name, weight, shape.family), strict=True):
            tensor = part.reshape(size[::-1]).T if inputs else part
            yield key, np.ascontiguousarray(tensor.astype(dtype))


def layer_by_layer() -> bool:
    """Whether the host should hold one layer of a weight at a time: not where its memory is the device's."""
    return jax.devices()[0].platform != "cpu"


def stored_keys(name: str, weight: Weight, family: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The keys that one of our weights is stored under there, with their shapes; one a layer where stacked."""
    pattern, inputs = keys(family)[name]
    stacked = "{}" in pattern
    shape = weight.shape[1:] if stacked else weight.shape
    if inputs:
        shape = (math.prod(shape[inputs:]), math.prod(shape[:inputs]))
    for layer in range(weight.shape[0] if stacked else 1):
        yield pattern.format(layer), shape
