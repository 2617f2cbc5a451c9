"""From mapped files to devices: every device gets its part of a weight, turned to our layout and cast on the way."""

from __future__ import annotations

import functools
import math
import mmap
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from aloe_jax.errors import AloeError
from aloe_jax.models.tensor_files import Stored

Index = tuple[slice, ...]

PIECE = 1 << 22  # values that one thread reads at a time
ROWS, COLUMNS = 64, 1024  # of a block that is turned while it is in the processor's cache
EXPONENT = {  # all bits of the exponent: set in NaN and infinity, and in nothing else
    "F64": (np.uint64, 0x7FF0000000000000),
    "F32": (np.uint32, 0x7F800000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}


@dataclass(frozen=True)
class StoredWeight:
    """Where one weight is read from. Raises AloeError, when read, naming a tensor that holds NaN or infinity."""

    tensors: Sequence[Stored]  # one for every layer where the weight is stacked, else one
    shape: tuple[int, ...]  # ours
    stacked: bool  # over layers, along the first axis
    inputs: int  # how many axes of a layer are the inputs of a matrix, stored as [outputs, inputs]; 0: stored as it is
    dtype: str  # ours

    def read(self, index: Index | None, pool: Executor, layer: int | None = None) -> np.ndarray:
        """The part of the weight at `index`, a slice an axis; None: all of it.

        With `layer` the part of that layer, at an index without the layers' axis.
        """
        index = index or (slice(None),) * (len(self.shape) - (layer is not None))
        if layer is not None:
            return self._read(self.tensors[layer : layer + 1], index, pool)[0]
        if not self.stacked:
            return self._read(self.tensors, index, pool)[0]
        return self._read(self.tensors[index[0]], index[1:], pool)

    def _read(self, tensors: Sequence[Stored], index: Index, pool: Executor) -> np.ndarray:
        full = self.shape[1:] if self.stacked else self.shape
        shape = [len(range(*axis.indices(size))) for axis, size in zip(index, full, strict=True)]
        host = _empty((len(tensors), *shape), jnp.dtype(self.dtype))
        pieces = [
            piece for part, stored in zip(host, tensors, strict=True) for piece in self._pieces(part, stored, index)
        ]
        for _ in pool.map(lambda piece: piece(), pieces):
            pass
        return host

    def _pieces(self, part: np.ndarray, stored: Stored, index: Index) -> list[functools.partial[None]]:
        """Reading index of `stored` into `part`, cut up for several threads."""
        full = self.shape[1:] if self.stacked else self.shape
        if not self.inputs:
            source = stored.array[index]
            source = source.reshape(-1, source.shape[-1])
            target = part.reshape(source.shape)
        else:
            outputs = full[self.inputs :]
            source = stored.array.reshape(*outputs, *full[: self.inputs])[
                (*index[self.inputs :], *index[: self.inputs])
            ]
            source = source.reshape(math.prod(source.shape[: len(outputs)]), -1)
            target = part.reshape(source.shape[::-1]).T
        rows = max(ROWS, PIECE // max(1, source.shape[1]) // ROWS * ROWS)
        return [
            functools.partial(_copy, source[at : at + rows], target[at : at + rows], stored)
            for at in range(0, source.shape[0], rows)
        ]


def put_on_devices(source: StoredWeight, sharding: Sharding, pool: Executor, layer_by_layer: bool) -> jax.Array:
    """The weight on its devices, read through `pool`.

    With `layer_by_layer` the host has the parts of one layer at a time. Without, it has those of all layers at
    once, which on a CPU are the array itself.
    """
    if not (source.stacked and layer_by_layer):
        return jax.make_array_from_callback(source.shape, sharding, functools.partial(source.read, pool=pool))
    shape, dtype, one = source.shape, source.dtype, sharding
    if isinstance(sharding, NamedSharding):
        one = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    stack = jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)()
    for layer in range(shape[0]):
        read = functools.partial(source.read, pool=pool, layer=layer)
        stack = _put(stack, jax.make_array_from_callback(shape[1:], one, read), layer)
    return stack


@functools.partial(jax.jit, donate_argnums=0)
def _put(stack: jax.Array, part: jax.Array, layer: jax.Array) -> jax.Array:
    return lax.dynamic_update_index_in_dim(stack, part, layer, 0)


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory from the system itself: it starts on a page, and what is so aligned becomes a CPU array uncopied."""
    memory = mmap.mmap(-1, max(1, math.prod(shape) * dtype.itemsize), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)


def _copy(source: np.ndarray, target: np.ndarray, stored: Stored) -> None:
    """Copy [R,C] block by block, cast to the type of the target, which may be a transposed view."""
    bits, exponent = EXPONENT[stored.dtype]
    words = np.dtype(f"u{target.dtype.itemsize}")
    for row in range(0, source.shape[0], ROWS):
        block = source[row : row + ROWS]
        if block.size and (block.view(bits) & bits(exponent)).max() == exponent:
            raise AloeError(f"{stored.file}: tensor {stored.key} holds NaN or infinity; copy it again")
        # Cast while it is in rows, then turned as plain words: quicker than both at once, or as bfloat16.
        if stored.dtype == "BF16" and target.dtype == np.float32:  # the upper half: NumPy's cast would block threads
            block = (block.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
        block = block.astype(target.dtype, copy=False).view(words)
        for column in range(0, source.shape[1], COLUMNS):
            target.view(words)[row : row + ROWS, column : column + COLUMNS] = block[:, column : column + COLUMNS]
    stored.forget(source)
