"""A model directory → what it takes to let it talk."""

from __future__ import annotations

import contextlib
from pathlib import Path

import jax
from jax.sharding import Mesh

from aloe_jax.data.template import ChatTemplate
from aloe_jax.data.tokenizer import load_tokenizer
from aloe_jax.errors import AloeError
from aloe_jax.models.opening import load_pretrained, tokenizer_directory
from aloe_jax.models.spec import Compute, check_vocabulary
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.sampling.sampler import Sampler
from aloe_jax.sampling.settings import CacheType
from aloe_jax.storage.copies import cache_directory


def load_sampler(
    path: str | Path,
    max_length: int,
    rows: int = 64,
    cache: CacheType = "compute",
    dtype: str = "float32",
    mesh: Mesh | None = None,
) -> tuple[Sampler, ChatTemplate]:
    """The sampler and the chat template of a Hugging Face directory or one of our runs.

    `dtype` is that of parameters and activations; `mesh` is what they are laid out over. See `Sampler` for the rest.
    """
    keep_compiled()
    tokenizer = load_tokenizer(tokenizer_directory(path))
    model = load_pretrained(path, dtype, mesh, Compute(dtype=dtype))
    check_vocabulary(tokenizer, model.spec, str(tokenizer_directory(path)))
    sampler = Sampler(model, tokenizer, max_length=max_length, rows=rows, cache=cache)
    return sampler, ChatTemplate(tokenizer, stop=model.spec.eos_ids)


def spread(shape: MeshSettings) -> Mesh | None:
    """The mesh over the devices that are here; None where there is only one. Raises AloeError, as `make_mesh`."""
    return make_mesh(shape) if jax.device_count() > 1 else None


def shared_by(devices: int) -> Mesh | None:
    """A mesh over the first so many devices (0: all) that share the model; None where that is only one."""
    here = jax.devices()
    if not 0 <= devices <= len(here):
        raise AloeError(f"--devices {devices}: {len(here)} are here")
    taken = here[: devices or len(here)]
    return make_mesh(MeshSettings(fsdp=1, tensor=-1), taken) if len(taken) > 1 else None


def keep_compiled() -> None:
    """Start from what earlier processes compiled, in ~/.cache/aloe-jax unless JAX has another directory."""
    if jax.config.jax_compilation_cache_dir is None:
        with contextlib.suppress(OSError, AloeError):  # nowhere to write: then every process compiles for itself
            directory = cache_directory() / "compiled"
            directory.mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(directory))
