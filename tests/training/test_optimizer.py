"""Schedule, optimizers by name, and where their state lies."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from aloe_jax.errors import AloeError
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.training.master import MasterCopies
from aloe_jax.training.optimizer import decayed, learning_rate, make_optimizer, state_shardings
from aloe_jax.training.settings import OptimizerSettings

NAMES = ("adamw", "lion", "adafactor")
PARAMS = {
    "embedding": jnp.ones((3, 2)),
    "final_norm": jnp.ones(2),
    "layers": {"attention_norm": jnp.ones((4, 2)), "gate": jnp.ones((4, 2, 5))},
}


def optimizer(name="adamw", steps=10, **settings):
    return make_optimizer(OptimizerSettings(name=name, **({"warmup_steps": 0} | settings)), steps)


@pytest.mark.parametrize(("schedule", "end"), [("cosine", 0.1), ("linear", 0.1), ("constant", 1.0)])
def test_schedule_warms_up_and_ends_where_it_says(schedule, end):
    settings = OptimizerSettings(learning_rate=2.0, warmup_steps=4, schedule=schedule, final_fraction=0.1)
    rate = learning_rate(settings, 20)
    np.testing.assert_allclose([rate(0), rate(2), rate(4)], [0.0, 1.0, 2.0])
    np.testing.assert_allclose(rate(20), 2.0 * end, rtol=1e-6)
    assert all(rate(step) >= rate(step + 1) for step in range(4, 20))


def test_a_run_shorter_than_its_warmup():
    assert learning_rate(OptimizerSettings(warmup_steps=100), 5)(5) > 0


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_not_decayed(name):
    assert decayed(PARAMS) == {
        "embedding": True, "final_norm": False, "layers": {"attention_norm": False, "gate": True},
    }  # fmt: skip
    made = optimizer(name, learning_rate=0.1, weight_decay=0.5)
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = made.update(zero, made.init(PARAMS), PARAMS)
    # Decay is part of what the learning rate scales, for every optimizer alike.
    np.testing.assert_allclose(updates["embedding"], -0.05, rtol=1e-6)
    np.testing.assert_allclose(updates["layers"]["gate"], -0.05, rtol=1e-6)
    assert (updates["final_norm"] == 0).all() and (updates["layers"]["attention_norm"] == 0).all()


def test_gradients_are_clipped():
    made = optimizer(clip_norm=1.0)
    params = {"embedding": jnp.ones((2, 2)), "layers": {}}
    state = made.init(params)
    _, huge = made.update({"embedding": jnp.full((2, 2), 1e6), "layers": {}}, state, params)
    _, unit = made.update({"embedding": jnp.full((2, 2), 0.5), "layers": {}}, state, params)
    for one, two in zip(*map(_matrices, (huge, unit)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5)


def _matrices(state):
    return [leaf for leaf in jax.tree.leaves(state) if leaf.ndim == 2]


@pytest.mark.parametrize("name", NAMES)
def test_a_learning_rate_is_the_size_of_the_first_step(name):
    """All three move every weight by the learning rate at first: their directions have a root mean square of 1."""
    params = {"gate": 5.0 * jax.random.normal(jax.random.key(0), (160, 130))}
    gradients = {"gate": jax.random.normal(jax.random.key(1), (160, 130))}
    made = optimizer(name, learning_rate=0.01)
    updates, _ = made.update(gradients, made.init(params), params)
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(updates["gate"] ** 2)), 0.01, rtol=1e-2)
    assert (jnp.sign(updates["gate"]) == -jnp.sign(gradients["gate"])).all()


@pytest.mark.parametrize("name", NAMES)
def test_each_goes_downhill(name):
    made, target = optimizer(name, steps=200, learning_rate=0.05), jnp.linspace(-1.0, 1.0, 10).reshape(2, 5)
    params = {"gate": jnp.zeros((2, 5))}

    @jax.jit
    def step(params, state):
        loss, gradients = jax.value_and_grad(lambda p: ((p["gate"] - target) ** 2).sum())(params)
        updates, state = made.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    state, losses = made.init(params), []
    for _ in range(200):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[-1] < 0.01 * losses[0]


@pytest.mark.parametrize(("name", "moments"), [("adamw", 2), ("lion", 1)])
def test_the_first_moment_is_held_as_asked(name, moments):
    wide, narrow = (_matrices(optimizer(name, moment_dtype=kind).init(PARAMS)) for kind in ("float32", "bfloat16"))
    assert {leaf.dtype for leaf in wide} == {jnp.dtype("float32")}
    assert len(wide) == len(narrow) == 2 * moments  # of the two parameters that are matrices
    assert [leaf.dtype for leaf in narrow].count(jnp.bfloat16) == 2


def test_adafactor_has_no_first_moment():
    with pytest.raises(AloeError, match=r"optimizer\.moment_dtype: adafactor has no first moment"):
        optimizer("adafactor", moment_dtype="bfloat16")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_state_lies_where_its_parameters_lie(name, dtype):
    mesh = make_mesh(MeshSettings(data=1, fsdp=4, tensor=2))

    def put(shape, *axes):
        return jax.device_put(jnp.ones(shape, dtype), NamedSharding(mesh, PartitionSpec(*axes)))

    params = {
        "embedding": put((128, 256), "tensor", "fsdp"),
        "final_norm": put((256,), "fsdp"),
        "layers": {"gate": put((2, 256, 128), None, "fsdp", "tensor"), "norm": put((2, 256), None, "fsdp")},
    }
    made = MasterCopies(optimizer(name))
    where = state_shardings(jax.eval_shape(made.init, params), params, mesh)
    state = jax.jit(made.init, out_shardings=where)(params)
    step = jax.jit(made.apply, donate_argnums=(1, 2), out_shardings=(jax.tree.map(lambda p: p.sharding, params), where))
    shards = {leaf.shape: leaf.sharding.shard_shape(leaf.shape) for leaf in jax.tree.leaves(state)}
    params, state = step(jax.tree.map(jnp.ones_like, params), state, params)
    assert shards == {leaf.shape: leaf.sharding.shard_shape(leaf.shape) for leaf in jax.tree.leaves(state)}

    assert shards[(256,)] == (64,) and shards[(2, 256)] == (2, 64)  # the norms' moments, and Adafactor's means
    if name == "adafactor":
        assert shards[(128,)] == (64,)  # of the embedding's rows, over tensor
        assert shards[(2, 128)] == (2, 64)
        assert ((2, 256, 128) in shards) == (dtype == "bfloat16")  # as a master copy only
    if name != "adafactor" or dtype == "bfloat16":
        assert shards[(2, 256, 128)] == (2, 64, 64) and shards[(128, 256)] == (64, 64)
    whole = {shape for shape, part in shards.items() if shape == part}
    assert whole <= {(), (1,)}
