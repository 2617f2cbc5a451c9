"""Decoders: what they are (spec, weights), what they compute (decoder, attention), how they are stored."""

from pathlib import Path

from jax.sharding import Mesh

from aloe_jax.errors import AloeError
from aloe_jax.models.decoder import Compute, Decoder, assemble
from aloe_jax.models.huggingface import load_huggingface, save_pretrained
from aloe_jax.models.spec import ModelSpec, check_vocabulary
from aloe_jax.models.weights import parameter_shardings, weights

__all__ = [
    "Compute",
    "Decoder",
    "ModelSpec",
    "assemble",
    "check_vocabulary",
    "load_pretrained",
    "parameter_shardings",
    "save_pretrained",
    "tokenizer_directory",
    "weights",
]


def load_pretrained(
    path: str | Path, dtype: str = "float32", mesh: Mesh | None = None, compute: Compute | None = None
) -> Decoder:
    """The model in a Hugging Face directory or in one of our run directories (its newest checkpoint).

    Parameters come in `dtype`, laid out over `mesh` where one is given. Raises AloeError naming what is missing,
    cut short or of another kind.
    """
    if is_huggingface(path):
        return load_huggingface(path, dtype, mesh, compute)
    from aloe_jax.models.run_directory import load_run  # imports Orbax

    return load_run(path, dtype, mesh, compute)


def tokenizer_directory(path: str | Path) -> Path:
    """Where the tokenizer of a model directory lies."""
    return Path(path) if is_huggingface(path) else Path(path) / "tokenizer"


def is_huggingface(path: str | Path) -> bool:
    """Whether `path` is a Hugging Face directory (True) or one of our runs (False); AloeError when neither."""
    path = Path(path)
    if (path / "config.json").exists():
        return True
    if (path / "spec.json").exists():
        return False
    what = "holds neither config.json (Hugging Face) nor spec.json (a run)" if path.exists() else "not found"
    raise AloeError(f"{path}: {what}; give a model directory")
