"""Products of activations with weights, whose gradients are computed as fast as they are."""

from __future__ import annotations

import jax
from jax import lax


@jax.custom_vjp
def product(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x @ weight, [...,D] by [D,F] -> [...,F].

    JAX's own gradient to the weight is the transpose of [F,...] x [...,D]. On CPUs XLA then turns the [...,F] array
    first and computes once more, element by element, what that is made of: a fused exponential took several times as
    long as the product. Here it is [D,...] x [...,F], which turns at most x.
    """
    return x @ weight


def _forward(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return product(x, weight), (x, weight)


def _backward(saved: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, weight = saved
    last, others = x.ndim - 1, tuple(range(x.ndim - 1))
    d_x = lax.dot_general(cotangent, weight, (((last,), (1,)), ((), ())))
    return d_x, lax.dot_general(x, cotangent, ((others, others), ((), ())))


product.defvjp(_forward, _backward)
