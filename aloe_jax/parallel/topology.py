"""TPU slices that are not at hand: their meshes, and programs compiled for them ahead of time.

libtpu, found as an installed package or through TPU_LIBRARY_PATH, has the compiler of every TPU generation and needs
no TPU for it. What it makes of a program says the memory that a chip needs, and collectives.py what chips exchange.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
from jax.experimental import topologies
from jax.sharding import AbstractMesh, AxisType, Mesh
from jax.stages import Compiled

from aloe_jax.errors import AloeError
from aloe_jax.parallel.mesh import AXES, filled, make_mesh, within_slice
from aloe_jax.parallel.settings import MeshSettings

# Some of the topologies of each generation; libtpu knows others of the same form.
TOPOLOGIES = {
    "v4": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4"),
    "v5e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8"),
    "v6e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "tpu7x": ("2x2x1", "2x2x2", "2x2x4", "4x4x4"),
}
# Without these libtpu asks a metadata server which machine it is on, stops where another process has loaded it, and
# writes logs to /tmp.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
}
# Where `make test` puts libtpu: beside the environment's packages, not among them, where JAX would look for a TPU at
# every start.
BESIDE = Path(sys.prefix, "libtpu", "libtpu", "libtpu.so")
QUICK = {"optimization_level": "O1"}


def tpu_mesh(topology: str, shape: MeshSettings, slices: int = 1) -> Mesh:
    """A mesh over the chips of `slices` TPU slices such as "v5e:4x4"; only its data axis goes from slice to slice.

    Nothing runs on these devices, and no array can be put on them; they are for `compile_for`. Raises AloeError
    when there is no such topology, when libtpu is missing, and when the shape does not fit the chips.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    options: dict[str, object] = {} if slices == 1 else {"num_slices": slices}
    if topology.startswith("v4"):
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device, as JAX has them
    try:
        devices = topologies.get_topology_desc(topology, "tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        known = "; ".join(f"{name}: {', '.join(shapes)}" for name, shapes in TOPOLOGIES.items())
        raise AloeError(
            f"topology: libtpu knows no {topology!r} ({str(error).splitlines()[0]}); "
            f'give generation and shape, such as "v5e:4x4". {known}'
        ) from error
    except (RuntimeError, OSError) as error:
        raise AloeError(
            "topology: compiling for TPUs needs libtpu (Linux on x86-64, 590 MB): pip install --no-deps --target "
            f"{BESIDE.parents[1]} libtpu, or set TPU_LIBRARY_PATH to a libtpu.so ({error})"
        ) from error
    return make_mesh(shape, list(devices))


def unplaced_mesh(shape: MeshSettings, chips: int, slices: int = 1) -> AbstractMesh:
    """The mesh of `tpu_mesh` by its sizes alone, over chips that nobody asks libtpu for: for estimates.

    Raises AloeError when the shape does not fit so many chips.
    """
    inside = shape if slices == 1 else within_slice(shape, slices)
    data, fsdp, tensor = filled(inside, chips // slices)
    return AbstractMesh((data * slices, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3)


def compile_for(
    mesh: Mesh,
    function: Callable[..., object],
    *arguments: object,
    donate: Sequence[int] = (),
    options: Mapping[str, object] | None = None,
) -> Compiled:
    """`function` compiled for a mesh from `tpu_mesh`, for arguments that are trees of jax.ShapeDtypeStruct.

    The arguments have shardings on the mesh. A function that is jitted already keeps its own settings; another is
    jitted, and may write over the arguments numbered in `donate`. `options` are XLA's; with QUICK it takes a quarter of
    the time, splits the program over chips alike, and tidies up less after that.
    A chip's memory is `memory_analysis().peak_memory_in_bytes` of what comes back (`temp_size_in_bytes` may read 0).
    """
    jitted = function if hasattr(function, "trace") else jax.jit(function, donate_argnums=tuple(donate))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jitted.trace(*arguments).lower(lowering_platforms=("tpu",)).compile(compiler_options=dict(options or {}))
