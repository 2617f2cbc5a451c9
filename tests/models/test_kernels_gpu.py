"""The GPU kernel against dense attention, its steps run as plain XLA; and its lowering for CUDA, which needs no GPU."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from aloe_jax.models.kernels import gpu
from aloe_jax.parallel.mesh import AXES, make_mesh
from aloe_jax.parallel.settings import MeshSettings
from tests.interval_attention import differences

kernel = partial(gpu.interval_attention, interpret=True)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(gpu, "block_size", lambda size, dtype: 16)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("shape", "windows"),
    [
        ((3, 77, 4, 2, 8), (None, None, None)),
        ((3, 77, 4, 2, 8), (2, 6, 40)),
        ((1, 48, 3, 1, 80), (5, 10**6)),
        ((2, 7, 2, 2, 4), (None,)),
    ],
)
def test_kernel_is_dense(shape, windows):
    assert max(differences(kernel, shape, windows).values()) < 1e-5


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("mesh", "shape", "windows"),
    [((2, 2, 2), (4, 40, 4, 2, 8), (None, None)), ((1, 2, 4), (2, 40, 12, 6, 8), (9, 3))],
)
def test_kernel_is_dense_on_meshes(mesh, shape, windows):
    mesh = make_mesh(MeshSettings(data=mesh[0], fsdp=mesh[1], tensor=mesh[2]))
    assert max(differences(kernel, shape, windows, mesh=mesh).values()) < 1e-5


@pytest.mark.usefixtures("small_blocks")
def test_another_tree_is_another_result():
    """The control: a kernel that took every subtree to end a little early is told apart."""

    def early(ends):
        return np.maximum(ends - 1, np.arange(ends.shape[1]) + 1)

    assert min(differences(kernel, (2, 50, 2, 1, 8), padding=0, change=early).values()) > 1e-2


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
@pytest.mark.parametrize(
    ("length", "heads", "kv_heads", "size", "dtype", "windowed"),
    [(2048, 8, 2, 128, jnp.bfloat16, True), (2000, 4, 4, 80, jnp.float32, False), (300, 4, 1, 64, jnp.bfloat16, False)],
)
def test_lowers_for_cuda_without_a_square_of_scores(length, heads, kv_heads, size, dtype, windowed):
    device = AbstractDevice(device_kind="NVIDIA H100", num_cores=None, platform="gpu")
    mesh = AbstractMesh((1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 3, abstract_device=device)

    def gradients(query, key, value, ends, positions, window):
        def total(query, key, value):
            place = (positions, window) if windowed else ()
            return gpu.interval_attention(query, key, value, ends, *place).astype(jnp.float32).sum()

        return jax.grad(total, argnums=(0, 1, 2))(query, key, value)

    query, key = (jax.ShapeDtypeStruct((2, length, n, size), dtype) for n in (heads, kv_heads))
    tokens, window = jax.ShapeDtypeStruct((2, length), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(gradients).trace(query, key, key, tokens, tokens, window)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("__gpu$xla.gpu.triton") == 3  # forward, queries' gradient, keys' and values'
    assert f"{length}x{length}" not in text
