"""The decoder's norms, rotary positions and rematerialisation. Numerics follow transformers."""

from __future__ import annotations

from collections.abc import Callable

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
