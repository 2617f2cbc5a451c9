"""Master copies: updates that bfloat16 would swallow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from aloe_jax.training.master import MasterCopies
from aloe_jax.training.optimizer import make_optimizer
from aloe_jax.training.settings import OptimizerSettings

START = jnp.array([1.0, -3.0, 0.5, 100.0])


def test_a_thousand_tiny_updates_arrive():
    """Each is 1/100 of the distance between neighbours in bfloat16."""
    rule, gradient = optax.sgd(1.0), {"w": jnp.array(START * 2.0**-7 / 100, jnp.bfloat16)}
    made, params = MasterCopies(rule), {"w": START.astype(jnp.bfloat16)}
    state, apply = made.init(params), jax.jit(made.apply)
    alone, plain = params, jax.jit(lambda p: optax.apply_updates(p, rule.update(gradient, rule.init(p), p)[0]))
    for _ in range(1000):
        params, state = apply(gradient, state, params)
        alone = plain(alone)
    expected = START - 1000 * gradient["w"].astype(jnp.float32)
    np.testing.assert_allclose(state.master["w"], expected, rtol=1e-4)
    np.testing.assert_array_equal(params["w"], expected.astype(jnp.bfloat16))
    np.testing.assert_array_equal(alone["w"], START)  # the control: without copies nothing moves


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor"])
def test_a_parameter_is_the_rounded_copy_and_the_copy_trains_as_float32_would(name):
    rule = make_optimizer(OptimizerSettings(name=name, learning_rate=0.3, warmup_steps=0, weight_decay=0.1), 20)
    made, random = MasterCopies(rule), np.random.default_rng(0)
    start = jnp.asarray(random.normal(size=(6, 5)), jnp.bfloat16)
    params, wide = {"w": start}, {"w": start.astype(jnp.float32)}
    state, plain = made.init(params), rule.init(wide)
    for _ in range(20):
        gradient = jnp.asarray(random.normal(size=(6, 5)), jnp.bfloat16)
        params, state = made.apply({"w": gradient}, state, params)
        updates, plain = rule.update({"w": gradient.astype(jnp.float32)}, plain, wide)
        wide = optax.apply_updates(wide, updates)
        assert params["w"].dtype == jnp.bfloat16
        np.testing.assert_array_equal(params["w"], state.master["w"].astype(jnp.bfloat16))
        np.testing.assert_array_equal(state.master["w"], wide["w"])
    assert {leaf.dtype for leaf in jax.tree.leaves(state) if leaf.ndim} == {jnp.dtype("float32")}


def test_float32_parameters_take_no_second_copy(tmp_path):
    rule = make_optimizer(OptimizerSettings(warmup_steps=0), 10)
    params = {"narrow": jnp.ones((2, 3), jnp.bfloat16), "layers": {"wide": jnp.ones((4, 2, 3))}}
    made = MasterCopies(rule)
    state = made.init(params)
    assert [leaf.shape for leaf in jax.tree.leaves(state.master)] == [(2, 3)]
    params, state = made.apply(jax.tree.map(jnp.ones_like, params), state, params)
    assert params["layers"]["wide"].dtype == jnp.float32 and params["narrow"].dtype == jnp.bfloat16

    # What is left out is left out of a checkpoint too, and comes back as it was.
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.tree.map(jnp.zeros_like, state))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)

    plain = {"layers": {"wide": jnp.ones((4, 2, 3))}}
    one, other = MasterCopies(rule).init(plain), rule.init(plain)
    assert len(jax.tree.leaves(one)) == len(jax.tree.leaves(other))
