"""Products of activations with weights and with each other, whose gradients are computed as fast as they are.

What is `unfused` is cheap by itself, a transposition or an exponential. On CPUs XLA would fuse it into what
reads it, and compute it in a slower order or several times.
"""

from __future__ import annotations

import math
from functools import partial

import jax
from jax import lax


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: jax.Array, weight: jax.Array, inputs: int = 1) -> jax.Array:
    """The sum over the last `inputs` axes of x and as many first ones of weight: [...,D] by [D,F] -> [...,F].

    JAX's own gradient to the weight is the transpose of [F,...] x [...,D]. On CPUs XLA then turns the [...,F] array
    first and computes once more, element by element, what that is made of: a fused exponential took several times as
    long as the product. Here it is [D,...] x [...,F] where D is not larger than F: the narrower array is turned.
    """
    return _plain(x, weight, inputs)


def _plain(x: jax.Array, weight: jax.Array, inputs: int) -> jax.Array:
    return lax.dot_general(x, weight, ((range(x.ndim - inputs, x.ndim), range(inputs)), ((), ())))


def _forward(x: jax.Array, weight: jax.Array, inputs: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _plain(x, weight, inputs), (x, weight)


def _backward(inputs: int, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, weight = unfused(saved[0]), saved[1]
    leading = range(x.ndim - inputs)
    outputs = range(len(leading), cotangent.ndim), range(inputs, weight.ndim)
    d_x = lax.dot_general(cotangent, weight, (outputs, ((), ())))
    if math.prod(weight.shape[:inputs]) <= math.prod(weight.shape[inputs:]):
        return d_x, lax.dot_general(x, cotangent, ((leading, leading), ((), ())))
    turned = unfused(lax.dot_general(cotangent, x, ((leading, leading), ((), ()))))  # [F,D]
    count = weight.ndim - inputs
    return d_x, unfused(turned.transpose(*range(count, weight.ndim), *range(count)))


product.defvjp(_forward, _backward)


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
