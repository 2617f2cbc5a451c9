"""Weights brought together for a layer's products: the same numbers as on one device, for all that a layer may hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from aloe_jax.models.native.decoder import DecoderSpec
from aloe_jax.models.native.lora import Adapter
from aloe_jax.models.settings import LoRASettings
from aloe_jax.models.spec import Compute
from aloe_jax.parallel.mesh import gathered, make_mesh
from aloe_jax.parallel.settings import MeshSettings
from tests.random_models import random_decoder

SPEC = DecoderSpec(
    vocab=64, layers=2, width=16, query_heads=4, kv_heads=2, head_size=4, feed_forward=32, max_length=64,
    biases=("query", "key", "value", "gate"), qk_norm="head",
)  # fmt: skip
ONE = make_mesh(MeshSettings(data=1, fsdp=1), jax.devices()[:1])
TOKENS = np.random.default_rng(0).integers(64, size=(8, 12))


@pytest.fixture(autouse=True)
def wide():
    """Sums in another order agree closely."""
    with jax.enable_x64(True):
        yield


def gradients(mesh, remat="full", lora=None):
    """Of what is trained; on a mesh, with parameters split over it."""
    model = random_decoder(SPEC, compute=Compute("dense", remat, dtype="float64"))
    if lora is not None:
        model.adapted(lora, seed=0)
        model.adapters = jax.tree.map(lambda x: x + 0.1, model.adapters)  # B is zero at first
    graph, params, rest = nnx.split(model, Adapter if lora else nnx.Param, ...)
    if lora is None:
        nnx.replace_by_pure_dict(params, jax.tree.map(jax.device_put, nnx.to_pure_dict(params), SPEC.shardings(mesh)))

    def loss(params):
        return jnp.square(nnx.merge(graph, params, rest)(TOKENS)).sum()

    with jax.set_mesh(mesh):
        return jax.jit(jax.grad(loss), compiler_options={"xla_backend_optimization_level": 0})(params)


def close(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-6 * np.abs(a).max())


def test_gradients_are_those_of_one_device():
    split = gradients(make_mesh(MeshSettings(data=2, fsdp=2, tensor=2)), "dots")
    close(nnx.to_pure_dict(gradients(ONE, "dots")), nnx.to_pure_dict(split))


def test_so_are_those_of_adapters_beside_weights_in_few_bits():
    lora = LoRASettings(rank=2, base="nf4")
    close(gradients(ONE, lora=lora), gradients(make_mesh(MeshSettings(fsdp=4, tensor=2)), lora=lora))


def test_a_gradient_comes_in_parts_without_ever_being_whole():
    mesh = make_mesh(MeshSettings(fsdp=8))
    weight, rows = jnp.ones((16, 32)), jnp.ones((8, 16))
    with jax.set_mesh(mesh):
        rows = jax.device_put(rows, PartitionSpec("fsdp"))

        def loss(weight):
            whole = gathered(weight, ("width", "feed_forward"))
            assert whole.shape == weight.shape
            return jnp.square(rows @ whole).sum()

        made = jax.jit(jax.grad(loss))(jax.device_put(weight, PartitionSpec("fsdp")))
    assert made.sharding.spec[0] in ("fsdp", ("fsdp",))
    np.testing.assert_allclose(made, jax.grad(lambda w: jnp.square(np.ones((8, 16)) @ w).sum())(weight))


def test_what_has_no_width_stays_as_it_is():
    mesh = make_mesh(MeshSettings(fsdp=8))
    with jax.set_mesh(mesh):
        bias = jnp.ones(8)
        assert gathered(bias, ("feed_forward",)) is bias
    assert gathered(bias, ("width",)) is bias  # no mesh is set
