"""Weights of MaxText's models from Hugging Face's tensors and back: every tensor is one layer's, or one expert's."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from aloe_jax.errors import AloeError
from aloe_jax.models.maxtext.config import family_to_write
from aloe_jax.models.maxtext.families import Layout
from aloe_jax.models.maxtext.layers import Stacking, stackings
from aloe_jax.models.maxtext.shape import BLOCKS, MaxTextShape
from aloe_jax.models.tensor_files import HEAD, Stored, check_tensors, check_weights, open_tensors, other_head
from aloe_jax.models.weights import Weight, on_host, weight_sharding

Index = tuple[slice | int, ...]
THREADS = 8  # that read files


@dataclass(frozen=True)
class Piece:
    """The part of a weight that one of their tensors is."""

    key: str
    index: Index  # of the part in the weight
    shape: tuple[int, ...]  # of the part
    layout: Layout
    stored: tuple[int, ...]  # the tensor's


def read_weights(model: MaxTextShape, path: Path, dtype: str, mesh: Mesh | None) -> dict[str, jax.Array]:
    """The weights in a local Hugging Face directory by MaxText's names, in `dtype`, laid out over `mesh`.

    Raises AloeError naming the file and the tensor: one that is missing, left over, of another shape or type, not
    finite, or that the way back does not give again.
    """
    tensors = open_tensors(path)
    parts = pieces(model)
    expected = {piece.key: piece.stored for each in parts.values() for piece in each}
    check_tensors(path, tensors, expected, str(model.family), HEAD if model.tie_embeddings else None)
    if model.tie_embeddings and other_head(path):
        raise AloeError(
            f"{path}: config.json ties the head to the embedding, but the weights have another head; set "
            "tie_word_embeddings to false in config.json where the model has one, or remove the tensor lm_head.weight"
        )
    check_weights(path)
    read = functools.partial(_read, tensors, model)
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        return {
            name: _on_devices(weight, parts[name], weight_sharding(weight, mesh), jnp.dtype(dtype), read, pool)
            for name, weight in model.weights().items()
        }


def stored_shapes(model: MaxTextShape) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor by its key."""
    return {piece.key: piece.stored for parts in pieces(model).values() for piece in parts}


def stored_tensors(
    model: MaxTextShape, weights: Mapping[str, jax.Array], dtype: np.dtype
) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor in `dtype`, in the order of `stored_shapes`; the host has one weight at a time."""
    for name, parts in pieces(model).items():
        whole = on_host(weights[name])
        for piece in parts:
            tensor = _theirs(whole[piece.index].astype(np.float32), piece, model)
            yield piece.key, np.ascontiguousarray(tensor.astype(dtype))


def pieces(model: MaxTextShape) -> dict[str, list[Piece]]:
    """Which tensors every weight is made of. Raises AloeError where the model has no form there."""
    family = family_to_write(model)
    shapes = {name: weight.shape for name, weight in model.weights().items()}
    axis = model.resolved.param_scan_axis
    found: dict[str, list[Piece]] = {}
    for name, stacking in stackings(shapes, axis).items():
        shape = shapes[name]
        part = stacking.part.replace("_local", "").replace("_global", "")
        table = family.top if stacking.numbers is None else family.names
        if part not in table:
            raise AloeError(f"{model.name}: its weight {name} has no name in a {family.title} of transformers")
        pattern, layout = table[part]
        found[name] = [
            Piece(pattern.format(layer=layer, expert=expert), index, *_shapes(shape, index, layout, stacking))
            for layer, expert, index in _units(name, shape, stacking, axis, model)
        ]
    return found


def _units(
    name: str, shape: tuple[int, ...], stacking: Stacking, axis: int, model: MaxTextShape
) -> Iterator[tuple[int, int, Index]]:
    """(layer, expert, index) of every part of a weight."""
    routed = model.experts > 1 and name.rpartition(".")[2] in BLOCKS
    pair = 2 if "_local" in stacking.part or "_global" in stacking.part else 1  # Gemma 2's layers hold two there
    for at, number in enumerate(stacking.numbers or (0,)):
        layer = pair * number + ("_global" in stacking.part)
        index: list[slice | int] = [slice(None)] * len(shape)
        if stacking.stacked:
            index[min(axis, len(shape) - 1)] = at
        for expert in range(shape[0]) if routed else (0,):
            yield layer, expert, tuple([expert, *index[1:]] if routed else index)


def _shapes(
    shape: tuple[int, ...], index: Index, layout: Layout, stacking: Stacking
) -> tuple[tuple[int, ...], Layout, tuple[int, ...]]:
    own = tuple(size for size, at in zip(shape, index, strict=True) if isinstance(at, slice))
    if layout.inputs:
        return own, layout, (math.prod(own[layout.inputs :]), math.prod(own[: layout.inputs]))
    return own, layout, own if stacking.numbers is None else (math.prod(own),)


# ---------------------------------------------------------------- turning


def _factor(layout: Layout, model: MaxTextShape) -> np.float32:
    if layout.scale == "width_root":
        return np.float32(model.width**0.5)
    if layout.scale == "query_root":
        return np.float32((model.query_scale or model.head_size) ** -0.5)
    return np.float32(1.0)


def _ours(tensor: np.ndarray, piece: Piece, model: MaxTextShape) -> np.ndarray:
    """A tensor there, float32, as the part of a weight."""
    made = (tensor.T if piece.layout.inputs else tensor).reshape(piece.shape)
    if piece.layout.interleaved:
        made = np.stack(np.split(made, 2, axis=-1), axis=-1).reshape(piece.shape)
    if piece.layout.scale:
        made = made * _factor(piece.layout, model)
    return made + np.float32(piece.layout.plus) if piece.layout.plus else made


def _theirs(part: np.ndarray, piece: Piece, model: MaxTextShape) -> np.ndarray:
    """The way back."""
    made = part - np.float32(piece.layout.plus) if piece.layout.plus else part
    if piece.layout.scale:
        made = made / _factor(piece.layout, model)
    if piece.layout.interleaved:
        made = np.concatenate([made[..., ::2], made[..., 1::2]], axis=-1)
    return made.reshape(piece.stored[::-1]).T if piece.layout.inputs else made.reshape(piece.stored)


# ---------------------------------------------------------------- reading


def _read(tensors: Mapping[str, Stored], model: MaxTextShape, piece: Piece, check: bool) -> np.ndarray:
    """One part of a weight, in float32; `check`: that the way back gives the tensor again."""
    stored = tensors[piece.key]
    tensor = stored.array.astype(np.float32)
    if not np.isfinite(tensor).all():
        raise AloeError(f"{stored.file}: tensor {piece.key} holds NaN or infinity; copy it again")
    made = _ours(tensor, piece, model)
    if check:
        again = _theirs(made, piece, model)
        rounding = 2.0**-22 * max(1.0, piece.layout.plus) if piece.layout.scale or piece.layout.plus else 0.0
        if not np.allclose(again, tensor, rtol=rounding, atol=rounding if piece.layout.plus else 0.0):
            raise AloeError(f"{stored.file}: tensor {piece.key} is not the same on its way back from MaxText's form")
    stored.forget(stored.array)
    return made


def _on_devices(
    weight: Weight,
    parts: list[Piece],
    where: Sharding,
    dtype: np.dtype,
    read: Callable[[Piece, bool], np.ndarray],
    pool: ThreadPoolExecutor,
) -> jax.Array:
    """A weight on its devices. Where the host's memory is another, it has one part at a time."""
    last = len(parts) - 1
    if jax.devices()[0].platform == "cpu" or len(parts) == 1:
        whole = np.empty(weight.shape, dtype)

        def fill(at: int) -> None:
            whole[parts[at].index] = read(parts[at], at in (0, last))

        for _ in pool.map(fill, range(len(parts))):
            pass
        return jax.make_array_from_callback(weight.shape, where, lambda index: whole[index])
    stack = jax.jit(lambda: jnp.zeros(weight.shape, dtype), out_shardings=where)()
    for at, piece in enumerate(parts):
        part = read(piece, at in (0, last)).astype(dtype)
        part = part.reshape([1 if isinstance(i, int) else s for i, s in zip(piece.index, weight.shape, strict=True)])
        starts = [i if isinstance(i, int) else 0 for i in piece.index]
        stack = _put(
            stack, jax.make_array_from_callback(part.shape, _thin(where, part.shape), part.__getitem__), starts
        )
    return stack


def _thin(where: Sharding, shape: tuple[int, ...]) -> Sharding:
    """The sharding of a part: axes of length 1 are not split."""
    if not isinstance(where, NamedSharding):
        return where
    spec = [*where.spec, *(None,) * (len(shape) - len(where.spec))]
    return NamedSharding(
        where.mesh, PartitionSpec(*(None if size == 1 else axis for axis, size in zip(spec, shape, strict=True)))
    )


@functools.partial(jax.jit, donate_argnums=0)
def _put(stack: jax.Array, part: jax.Array, starts: list[int]) -> jax.Array:
    return lax.dynamic_update_slice(stack, part, starts)
