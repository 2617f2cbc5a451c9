"""The decoder's norms, rotary positions, rematerialisation and products. Numerics follow transformers.

The gradients of products of activations with weights and with each other are computed as fast as they are. What is
`unfused` is cheap by itself, a transposition or an exponential: on CPUs XLA would fuse it into what reads it, and
compute it in a slower order or several times.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from aloe_jax.models.native.shape import DecoderShape


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / sqrt(mean(x²) + eps) * scale over the last axis, in float32 (Zhang and Sennrich 2019)."""
    wide = x.astype(wide_type(x))
    wide = wide * lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    scale = jnp.expand_dims(scale.astype(wide.dtype), tuple(range(x.ndim - 1)))
    return (wide * scale).astype(x.dtype)


def wide_type(x: jax.Array) -> jnp.dtype:
    """The type of sums and rotations: float32, float64 where that is what comes in."""
    return jnp.promote_types(x.dtype, jnp.float32)


def layer_norm(x: jax.Array, eps: float) -> jax.Array:
    """(x - mean(x)) / sqrt(variance(x) + eps) over the last axis, in float32 (Ba et al. 2016), without weights."""
    wide = x.astype(wide_type(x))
    wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
    return (wide * lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)).astype(x.dtype)


def rope_rotation(shape: DecoderShape, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of every rotary angle: int [B,T] -> two float32 [B,T,1,H/2] (Su et al. 2021)."""
    half = shape.head_size // 2
    frequency = shape.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if shape.rope_scaling is not None:
        frequency = stretched(frequency, shape.rope_scaling)
    angle = (positions[:, :, None].astype(jnp.float32) * frequency[None, None])[:, :, None]
    return jnp.cos(angle), jnp.sin(angle)


def stretched(frequency: jax.Array, scaling: tuple[float, float, float, float]) -> jax.Array:
    """Llama 3.1's frequencies: long waves are stretched by the factor, short ones kept, those between interpolated."""
    factor, low, high, original = scaling
    turns = original * frequency / (2 * jnp.pi)  # full turns over the original context
    keep = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return keep * frequency + (1 - keep) * frequency / factor


def rotate(x: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn the pairs (x[i], x[i + H/2]) of every head [B,T,heads,H] by their angles."""
    cosine, sine = rotation
    first, second = jnp.split(x.astype(wide_type(x)), 2, axis=-1)
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return turned.astype(x.dtype)


def rematerialised[**P, R](step: Callable[P, R], policy: str) -> Callable[P, R]:
    """A scan step whose backward pass recomputes nothing, all but matrix products (dots), or all (full)."""
    if policy == "none":
        return step
    kept = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if policy == "dots" else None
    return jax.checkpoint(step, policy=kept, prevent_cse=False)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: jax.Array, weight: jax.Array, inputs: int = 1) -> jax.Array:
    """The sum over the last `inputs` axes of x and as many first ones of weight: [...,D] by [D,F] -> [...,F].

    JAX's own gradient to the weight is the transpose of [F,...] x [...,D]. On CPUs XLA then turns the [...,F] array
    first and computes once more, element by element, what that is made of: a fused exponential took several times as
    long as the product. Here it is [D,...] x [...,F] where D is not larger than F: the narrower array is turned.
    """
    return _product(x, weight, inputs)


def _product(x: jax.Array, weight: jax.Array, inputs: int) -> jax.Array:
    return lax.dot_general(x, weight, ((range(x.ndim - inputs, x.ndim), range(inputs)), ((), ())))


def _product_forward(x: jax.Array, weight: jax.Array, inputs: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(x, weight, inputs), (x, weight)


def _product_backward(
    inputs: int, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, weight = unfused(saved[0]), saved[1]
    leading = range(x.ndim - inputs)
    outputs = range(len(leading), cotangent.ndim), range(inputs, weight.ndim)
    d_x = lax.dot_general(cotangent, weight, (outputs, ((), ())))
    if math.prod(weight.shape[:inputs]) <= math.prod(weight.shape[inputs:]):
        return d_x, lax.dot_general(x, cotangent, ((leading, leading), ((), ())))
    turned = unfused(lax.dot_general(cotangent, x, ((leading, leading), ((), ()))))  # [F,D]
    count = weight.ndim - inputs
    return d_x, unfused(turned.transpose(*range(count, weight.ndim), *range(count)))


product.defvjp(_product_forward, _product_backward)


def unfused[T](x: T) -> T:
    """`x`, on CPUs with a barrier to fusion; other platforms are left to decide."""
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)


@jax.custom_vjp
def gated(gate: jax.Array, up: jax.Array) -> jax.Array:
    """silu(gate) * up, elementwise (SwiGLU, arXiv 2002.05202). Its gradient needs only what goes in."""
    return unfused(jax.nn.silu(gate) * up)


def _gated_forward(gate: jax.Array, up: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return gated(gate, up), (gate, up)


def _gated_backward(saved: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    gate, up = saved
    share = jax.nn.sigmoid(gate)
    d_gate = cotangent * up * (share * (1 + gate * (1 - share)))
    return unfused((d_gate, cotangent * gate * share))


gated.defvjp(_gated_forward, _gated_backward)
