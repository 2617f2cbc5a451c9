import dataclasses
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aloe_jax.models.kernels import chunked
from aloe_jax.models.native.decoder import Decoder, DecoderSpec
from aloe_jax.models.spec import Compute
from aloe_jax.models.weights import nested
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.parallel.settings import MeshSettings
from tests.interval_attention import depths, random_tree
from tests.random_models import random_decoder

SPEC = DecoderSpec(
    vocab=48, layers=2, width=16, query_heads=4, kv_heads=2, head_size=4, feed_forward=24, max_length=64
)  # fmt: skip
TOKENS = np.random.default_rng(0).integers(0, 48, (8, 10)).astype(np.int32)
forward = nnx.jit(lambda model, *inputs: model(*inputs))


def decoder(**compute):
    rng = np.random.default_rng(1)
    values = {name: 0.1 * rng.standard_normal(weight.shape, np.float32) for name, weight in SPEC.weights().items()}
    return SPEC.assemble(nested(jax.tree.map(jnp.asarray, values)), Compute(**compute))


def loss_and_gradients(**compute):
    loss, gradients = nnx.jit(nnx.value_and_grad(lambda model: (model(TOKENS) ** 2).mean()))(decoder(**compute))
    return loss, nnx.to_pure_dict(gradients)


@pytest.fixture(scope="module")
def reference():
    return loss_and_gradients()


def flat(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_the_described_weights(tied):
    spec = replace(SPEC, tie_embeddings=tied)
    abstract = nnx.eval_shape(lambda: Decoder(spec, rngs=nnx.Rngs(0), dtype="bfloat16"))
    found = dict(flat(nnx.to_pure_dict(nnx.state(abstract, nnx.Param))))
    assert {name: value.shape for name, value in found.items()} == {n: w.shape for n, w in spec.weights().items()}
    assert {value.dtype for value in found.values()} == {jnp.dtype("bfloat16")}
    assert sum(value.size for value in found.values()) == spec.parameter_count()


@pytest.mark.parametrize("change", [{"remat": "full"}, {"remat": "dots"}, {"unroll": 2}, {"attention": "chunked"}])
def test_ways_of_computing_agree(reference, change):
    (loss, gradients), (other, other_gradients) = reference, loss_and_gradients(**change)
    assert float(loss) == pytest.approx(float(other), rel=1e-5)
    for (name, a), (_, b) in zip(flat(gradients), flat(other_gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=name)


def test_siblings_of_a_tree_equal_separate_rows():
    stem, first, second = TOKENS[0, :4], TOKENS[1, :3], TOKENS[2, :3]
    tree = np.concatenate([stem, first, second])[None]
    positions = jnp.array([[0, 1, 2, 3, 4, 5, 6, 4, 5, 6]])
    ends = jnp.array([[10, 10, 10, 10, 7, 7, 7, 10, 10, 10]])
    packed = forward(decoder(), tree, positions, ends)[0]
    apart = forward(decoder(), np.stack([np.concatenate([stem, first]), np.concatenate([stem, second])]))
    np.testing.assert_allclose(packed[:7], apart[0], atol=1e-5)
    np.testing.assert_allclose(packed[7:], apart[1, 4:], atol=1e-5)


@pytest.mark.parametrize(("method", "dtype", "tolerance"), [("dense", "float64", 1e-12), ("chunked", "float32", 1e-5)])
def test_paths_of_a_tree_with_windows_equal_separate_rows(monkeypatch, method, dtype, tolerance):
    """Layers with different windows, one of them with none, over a random tree: every path as a row of its own."""
    monkeypatch.setattr(chunked, "BLOCK", 8)
    monkeypatch.setattr(chunked, "STRIP", 4)
    spec = dataclasses.replace(SPEC, layers=3, windows=(4, 0, 1), family="qwen2", biases=("query", "key", "value"))
    rng = np.random.default_rng(4)
    parents, ends = random_tree(rng, 24)
    tokens = rng.integers(0, 48, 24).astype(np.int32)
    paths = []
    for leaf in set(range(24)) - set(parents):
        path, at = [], leaf
        while at >= 0:
            path, at = [at, *path], parents[at]
        paths.append(path)
    assert len(paths) > 3 and max(map(len, paths)) > 6
    rows = np.zeros((len(paths), 24), np.int32)
    for row, path in zip(rows, paths, strict=True):
        row[: len(path)] = tokens[path]
    with jax.enable_x64(dtype == "float64"):  # in which no processor rounds by more
        model = random_decoder(spec, 0.3, compute=Compute(attention=method, dtype=dtype))
        graph, state = nnx.split(model, nnx.Param)
        model = nnx.merge(graph, jax.tree.map(lambda x: x.astype(dtype), nnx.to_pure_dict(state)))
        packed = forward(model, tokens[None], jnp.array([depths(parents)]), jnp.asarray(ends)[None])[0]
        assert packed.dtype == dtype
        apart = forward(model, rows)
        for path, logits in zip(paths, apart, strict=True):
            np.testing.assert_allclose(packed[jnp.array(path)], logits[: len(path)], atol=tolerance)


def test_sharded_forward_is_the_unsharded_one():
    expected = forward(decoder(), TOKENS)
    graph, state = nnx.split(decoder(), nnx.Param)
    mesh = make_mesh(MeshSettings(fsdp=4, tensor=2))
    nnx.replace_by_pure_dict(state, jax.device_put(nnx.to_pure_dict(state), SPEC.shardings(mesh)))
    with jax.set_mesh(mesh):
        logits = jax.jit(lambda state, tokens: nnx.merge(graph, state)(tokens))(state, TOKENS)
    assert not state["layers"]["query"][...].sharding.is_fully_replicated
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_bfloat16_computing_stays_near():
    exact, rounded = forward(decoder(), TOKENS), forward(decoder(dtype="bfloat16"), TOKENS)
    assert rounded.dtype == jnp.float32
    assert 0 < jnp.abs(exact - rounded).max() < 0.05 * jnp.abs(exact).max()
