"""LoRA: trained matrices of low rank beside frozen weights, which may be held in four or eight bits.

A product x·W becomes x·W + (alpha / rank) x·A·B with A and B trained (arXiv 2106.09685, eq. 3). B starts at zero, so
a new adapter changes nothing. With W in nf4 or int4 this is QLoRA (arXiv 2305.14314); quantisation is qwix's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from aloe_jax.models.settings import LoRASettings
from aloe_jax.models.spec import ModelSpec
from aloe_jax.models.weights import Initialiser, Weight, nested, weight_sharding, weights, zeros

if TYPE_CHECKING:
    from aloe_jax.models.decoder import Decoder

BLOCK = 64  # weights that share a scale (arXiv 2305.14314, §3); less where the input dimension does not divide
# How many axes of a weight [L, *inputs, *outputs] are inputs.
INPUTS: dict[str, int] = {"query": 1, "key": 1, "value": 1, "output": 2, "gate": 1, "up": 1, "down": 1}


class Adapter(nnx.Variable):
    """A parameter of an adapter; not an nnx.Param, so that the frozen weights can be told from what is trained."""


def adapters(spec: ModelSpec, lora: LoRASettings) -> dict[str, Weight]:
    """The adapters of every target, A [L, *inputs, rank] and B [L, rank, *outputs], as `query_a` and `query_b`."""
    described: dict[str, Weight] = {}
    for name in lora.targets:
        base = weights(spec)[f"layers.{name}"]
        cut = 1 + INPUTS[name]
        inputs, outputs = base.shape[1:cut], base.shape[cut:]
        a = Weight(
            (spec.layers, *inputs, lora.rank),
            ("layers", *base.axes[1:cut], None),
            uniform(math.prod(inputs) ** -0.5),
        )
        b = Weight((spec.layers, lora.rank, *outputs), ("layers", None, *base.axes[cut:]), zeros)
        described |= {f"{name}_a": a, f"{name}_b": b}
    return described


def uniform(bound: float) -> Initialiser:
    """Values drawn evenly between -bound and bound, as peft draws A."""
    return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def attach(model: Decoder, lora: LoRASettings, seed: int, dtype: str = "float32", mesh: Mesh | None = None) -> Decoder:
    """Give a model new adapters, and hold its target weights as `lora.base` says. Changes `model` and returns it."""
    described = adapters(model.spec, lora)
    places = None if mesh is None else {name: weight_sharding(weight, mesh) for name, weight in described.items()}

    def draw() -> dict[str, jax.Array]:
        keys = jax.random.split(jax.random.key(seed), len(described))
        return {
            name: weight.initialiser(key, weight.shape).astype(dtype)
            for key, (name, weight) in zip(keys, described.items(), strict=True)
        }

    return with_adapters(model, lora, jax.jit(draw, out_shardings=places)())


def with_adapters(model: Decoder, lora: LoRASettings, values: dict[str, jax.Array]) -> Decoder:
    """As `attach`, with adapters that exist."""
    if lora.base != "as_loaded":
        for name in lora.targets:
            model.layers[name] = nnx.Param(quantised(model.layers[name][...], lora.base))
    model.lora = lora
    model.adapters = nnx.Dict({name: Adapter(value) for name, value in values.items()})
    return model


def delta(x: jax.Array, a: jax.Array, b: jax.Array, lora: LoRASettings) -> jax.Array:
    """(alpha / rank) x·A·B for one layer: x [B,T,*inputs], a [*inputs,rank], b [rank,*outputs] -> [B,T,*outputs]."""
    inputs = a.ndim - 1
    low = jnp.tensordot(x, a, (tuple(range(-inputs, 0)), tuple(range(inputs))))
    return jnp.tensordot(low, b, 1) * (lora.alpha / lora.rank)


def merged(model: Decoder) -> Decoder:
    """A plain decoder with the adapters added to the weights, as they were held in training; `model` if it has none."""
    from aloe_jax.models.decoder import assemble

    lora = model.lora
    if lora is None:
        return model
    values: dict[str, Any] = {
        name: param[...] for name, param in (("embedding", model.embedding), *_optional(model)) if param is not None
    }
    for name, param in model.layers.items():
        weight = dense(param[...])
        if name in lora.targets:
            a, b = model.adapters[f"{name}_a"][...], model.adapters[f"{name}_b"][...]
            weight = _added(weight, a, b, lora.alpha / lora.rank)
        values[f"layers.{name}"] = weight
    return assemble(model.spec, nested(values), model.compute)


def _optional(model: Decoder) -> list[tuple[str, Any]]:
    return [(name, getattr(model, name, None)) for name in ("final_norm", "head")]


@jax.jit
def _added(weight: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    layers, rank = a.shape[0], a.shape[-1]
    low = a.astype(jnp.float32).reshape(layers, -1, rank)
    product = jnp.einsum("lir,lro->lio", low, b.astype(jnp.float32).reshape(layers, rank, -1))
    return (weight.astype(jnp.float32) + scale * product.reshape(weight.shape)).astype(weight.dtype)


# ---------------------------------------------------------------- weights in few bits


def quantised(weight: jax.Array, kind: str) -> Any:
    """A stacked weight [L, *inputs, *outputs] in int8, int4 or nf4, a scale for every BLOCK along its first input."""
    import qwix

    block = math.gcd(weight.shape[1], BLOCK)
    others = tuple(axis for axis in range(weight.ndim) if axis != 1)
    quantise = jax.jit(lambda w: qwix.quantize(w, kind, channelwise_axes=others, tiled_axes={1: block}))
    return quantise(weight)


def dense(weight: Any) -> jax.Array:
    """A weight as an array, whatever it is held in."""
    if isinstance(weight, jax.Array):
        return weight
    import qwix

    return qwix.dequantize(weight)
