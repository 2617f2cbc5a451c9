"""Model directories: which kind one is, and the model in it."""

from pathlib import Path
from typing import cast

from jax.sharding import Mesh

from aloe_jax.errors import AloeError
from aloe_jax.models.decoder import Compute, Decoder
from aloe_jax.models.huggingface import load_huggingface
from aloe_jax.models.settings import ModelSettings
from aloe_jax.models.values import shown
from aloe_jax.storage.files import as_path


def load_pretrained(
    path: str | Path,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    compute: Compute | None = None,
    model: ModelSettings | None = None,
) -> Decoder:
    """The model in a Hugging Face directory or in one of our run directories (its newest checkpoint).

    Parameters come in `dtype`, laid out over `mesh` where one is given. `model` says by backend and overrides what to
    make of a Hugging Face directory: our decoder, or a model of MaxText's, which has what is used of a Decoder; without
    it a family that only MaxText has becomes one of its models. Raises AloeError naming what is missing, cut short or
    of another kind.
    """
    if is_huggingface(path):
        if (model.backend == "maxtext") if model is not None else only_maxtext(as_path(path)):
            from aloe_jax.models.maxtext.huggingface import load

            return cast(Decoder, load(path, dtype, mesh, compute, model.overrides if model is not None else None))
        return load_huggingface(path, dtype, mesh, compute)
    from aloe_jax.models.run_directory import load_run  # imports Orbax

    return load_run(path, dtype, mesh, compute)


def only_maxtext(path: Path) -> bool:
    """Whether a Hugging Face directory is of a family that MaxText has and our decoder has not."""
    from aloe_jax.models.families import FAMILIES
    from aloe_jax.models.maxtext.families import FAMILIES as THEIRS
    from aloe_jax.models.tensor_files import read_json

    kind = read_json(path / "config.json").get("model_type")
    return kind in THEIRS and kind not in FAMILIES


def tokenizer_directory(path: str | Path) -> Path:
    """Where the tokenizer of a model directory lies."""
    return as_path(path) if is_huggingface(path) else as_path(path) / "tokenizer"


def is_huggingface(path: str | Path) -> bool:
    """Whether `path` is a Hugging Face directory (True) or one of our runs (False); AloeError when neither."""
    path = as_path(path)
    if (path / "config.json").exists():
        return True
    if (path / "spec.json").exists():
        return False
    if (path / "adapter_config.json").exists():
        raise AloeError(f"{path}: {adapter_advice(path)}")
    what = "holds neither config.json (Hugging Face) nor spec.json (a run)" if path.exists() else "not found"
    raise AloeError(f"{path}: {what}; give a model directory")


def adapter_advice(path: Path) -> str:
    """What to do with a directory that holds adapters and no model."""
    from aloe_jax.models.tensor_files import read_json

    base = read_json(path / "adapter_config.json").get("base_model_name_or_path")
    beside = f"of {shown(base)}, not a model" if base else "and no model"
    return (
        f"holds adapters {beside}; give the run they were exported from, or export that run without --adapter. "
        "Adapters of other tools: merge them with peft (PeftModel.from_pretrained, merge_and_unload, save_pretrained)"
    )
