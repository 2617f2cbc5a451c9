"""Products of activations with weights, whose gradients are computed as fast as they are."""

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
    x, weight = saved
    leading = range(x.ndim - inputs)
    outputs = range(len(leading), cotangent.ndim), range(inputs, weight.ndim)
    d_x = lax.dot_general(cotangent, weight, (outputs, ((), ())))
    if math.prod(weight.shape[:inputs]) <= math.prod(weight.shape[inputs:]):
        return d_x, lax.dot_general(x, cotangent, ((leading, leading), ((), ())))
    turned = lax.dot_general(cotangent, x, ((leading, leading), ((), ())))  # [F,D]
    count = weight.ndim - inputs
    return d_x, turned.transpose(*range(count, weight.ndim), *range(count))


product.defvjp(_forward, _backward)
