"""LoRA: trained matrices of low rank beside frozen weights, which may be kept in four or eight bits.

A product x·W becomes x·W + (alpha / rank) x·A·B with A and B trained (arXiv 2106.09685, eq. 3). B starts at zero, so
a new adapter changes nothing. With W in nf4 or int4 this is QLoRA (arXiv 2305.14314); quantisation is qwix's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from aloe_jax.models.settings import LoRASettings
from aloe_jax.models.weights import Initialiser, Weight, weight_sharding

BLOCK = 64  # weights that share a scale (arXiv 2305.14314, §3); less where the input dimension does not divide


class Adapter(nnx.Variable[jax.Array]):
    """A parameter of an adapter; not an nnx.Param, to be separate from the frozen weights."""


def uniform(bound: float) -> Initialiser:
    """Values drawn evenly between -bound and bound, as peft draws A."""
    return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def draw(described: Mapping[str, Weight], seed: int, dtype: str, mesh: Mesh | None) -> dict[str, jax.Array]:
    """New adapters as `DecoderShape.adapters` describes them."""
    shardings = None if mesh is None else {name: weight_sharding(weight, mesh) for name, weight in described.items()}

    def drawn() -> dict[str, jax.Array]:
        keys = jax.random.split(jax.random.key(seed), len(described))
        return {
            name: weight.initialiser(key, weight.shape).astype(dtype)
            for key, (name, weight) in zip(keys, described.items(), strict=True)
        }

    return jax.jit(drawn, out_shardings=shardings)()


def delta(x: jax.Array, a: jax.Array, b: jax.Array, lora: LoRASettings) -> jax.Array:
    """(alpha / rank) x·A·B for one layer: x [B,T,*inputs], a [*inputs,rank], b [rank,*outputs] -> [B,T,*outputs]."""
    inputs = a.ndim - 1
    low = jnp.tensordot(x, a, (tuple(range(-inputs, 0)), tuple(range(inputs))))
    return jnp.tensordot(low, b, 1) * (lora.alpha / lora.rank)


@jax.jit
def added(weight: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """A stacked weight [L, *inputs, *outputs] with the product of its adapters added, computed in float32."""
    layers, rank = a.shape[0], a.shape[-1]
    low = a.astype(jnp.float32).reshape(layers, -1, rank)
    product = jnp.einsum("lir,lro->lio", low, b.astype(jnp.float32).reshape(layers, rank, -1))
    return (weight.astype(jnp.float32) + scale * product.reshape(weight.shape)).astype(weight.dtype)


# ---------------------------------------------------------------- weights in few bits


def quantised(weight: jax.Array, kind: str) -> jax.Array:
    """A stacked weight [L, *inputs, *outputs] in int8, int4 or nf4, a scale for every BLOCK along its first input.

    It is qwix's QArray, a tree of arrays, which `dense` makes an array again.
    """
    import qwix

    block = math.gcd(weight.shape[1], BLOCK)
    others = tuple(axis for axis in range(weight.ndim) if axis != 1)
    quantise = jax.jit(lambda w: qwix.quantize(w, kind, channelwise_axes=others, tiled_axes={1: block}))
    return quantise(weight)


def dense(weight: jax.Array) -> jax.Array:
    """A weight as an array, also where it is quantised."""
    if isinstance(weight, jax.Array):
        return weight
    import qwix

    return qwix.dequantize(weight)
