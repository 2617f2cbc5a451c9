"""Schedule and optimizer."""

import jax.numpy as jnp
import numpy as np
import pytest

from aloe_jax import config
from aloe_jax.training.optimizer import decayed, learning_rate, make_optimizer


@pytest.mark.parametrize(("schedule", "end"), [("cosine", 0.1), ("linear", 0.1), ("constant", 1.0)])
def test_schedule_warms_up_and_ends_where_it_says(schedule, end):
    settings = config.Optimizer(learning_rate=2.0, warmup_steps=4, schedule=schedule, final_fraction=0.1)
    rate = learning_rate(settings, 20)
    np.testing.assert_allclose([rate(0), rate(2), rate(4)], [0.0, 1.0, 2.0])
    np.testing.assert_allclose(rate(20), 2.0 * end, rtol=1e-6)
    assert all(rate(step) >= rate(step + 1) for step in range(4, 20))


def test_a_run_shorter_than_its_warmup():
    assert learning_rate(config.Optimizer(warmup_steps=100), 5)(5) > 0


def test_vectors_are_not_decayed():
    params = {
        "embedding": jnp.ones((3, 2)),
        "final_norm": jnp.ones(2),
        "layers": {"attention_norm": jnp.ones((4, 2)), "gate": jnp.ones((4, 2, 5))},
    }
    assert decayed(params) == {
        "embedding": True, "final_norm": False, "layers": {"attention_norm": False, "gate": True},
    }  # fmt: skip
    optimizer = make_optimizer(config.Optimizer(learning_rate=0.1, warmup_steps=0, weight_decay=0.5), 10)
    zero = {
        "embedding": jnp.zeros((3, 2)),
        "final_norm": jnp.zeros(2),
        "layers": {k: jnp.zeros_like(v) for k, v in params["layers"].items()},
    }
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    assert (updates["embedding"] < 0).all() and (updates["layers"]["gate"] < 0).all()
    assert (updates["final_norm"] == 0).all() and (updates["layers"]["attention_norm"] == 0).all()


def test_gradients_are_clipped():
    optimizer = make_optimizer(config.Optimizer(clip_norm=1.0), 10)
    params = {"embedding": jnp.ones((2, 2)), "layers": {}}
    state = optimizer.init(params)
    _, huge = optimizer.update({"embedding": jnp.full((2, 2), 1e6), "layers": {}}, state, params)
    _, unit = optimizer.update({"embedding": jnp.full((2, 2), 0.5), "layers": {}}, state, params)
    for one, two in zip(*map(_moments, (huge, unit)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5)


def _moments(state):
    import jax

    return [leaf for leaf in jax.tree.leaves(state) if leaf.ndim == 2]
