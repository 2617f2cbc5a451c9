import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aloe_jax.models.native import arithmetic
from aloe_jax.models.native.arithmetic import product, rematerialised

SHAPES = {  # x, weight, and how many axes are summed over
    "btd,df->btf": ((2, 5, 8), (8, 12), 1),
    "btf,fd->btd": ((2, 5, 12), (12, 8), 1),
    "btd,dnh->btnh": ((2, 5, 8), (8, 3, 4), 1),
    "btd,dkh->btkh": ((2, 5, 8), (8, 1, 4), 1),
    "btnh,nhd->btd": ((2, 5, 3, 4), (3, 4, 8), 2),
}


def draw(seed, shape, dtype):
    """Whole numbers so small that all sums of their products are exact in every type."""
    return jnp.asarray(np.random.default_rng(seed).integers(-2, 3, shape), dtype)


def value_and_gradients(function, x, weight):
    """The gradients are those of a sum in which every element weighs something else."""
    made, pull = jax.vjp(function, x, weight)
    return [made, *pull(draw(2, made.shape, made.dtype))]


def differences(written, dtype):
    """How many elements of value and gradients are not einsum's."""
    shape, weight_shape, inputs = SHAPES[written]
    x, weight = draw(0, shape, dtype), draw(1, weight_shape, dtype)
    found = value_and_gradients(lambda x, weight: product(x, weight, inputs), x, weight)
    expected = value_and_gradients(lambda x, weight: jnp.einsum(written, x, weight), x, weight)
    assert [(each.shape, each.dtype) for each in found] == [(each.shape, each.dtype) for each in expected]
    return [int((one != other).sum()) for one, other in zip(found, expected, strict=True)]


@pytest.mark.parametrize("written", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_value_and_gradients_are_those_of_einsum(written, dtype):
    assert differences(written, dtype) == [0, 0, 0]


def test_other_gradients_would_be_seen():
    """Control: what is compared comes out of this module's backward pass."""
    right = arithmetic._product_backward
    product.defvjp(arithmetic._product_forward, lambda inputs, saved, cotangent: right(inputs, saved, -cotangent))
    try:
        value, *gradients = differences("btd,df->btf", "float32")
    finally:
        product.defvjp(arithmetic._product_forward, right)
    assert value == 0
    assert all(gradients)


def test_remat_dots_keeps_it():
    """Two products are for the gradients; one more is the value computed again, which `dots` is not to do."""
    x, weight = jnp.ones((1, 3, 4)), jnp.ones((4, 4))

    def products_of(policy):
        step = rematerialised(lambda x, weight: jnp.sin(product(jnp.sin(x), weight)).sum(), policy)
        return str(jax.make_jaxpr(jax.grad(step, argnums=(0, 1)))(x, weight)).count("dot_general[")

    assert {policy: products_of(policy) for policy in ("none", "dots", "full")} == {"none": 3, "dots": 3, "full": 4}
