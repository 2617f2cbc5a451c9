"""Which model a setting or a directory means: the one module that decides it.

A model is in a Hugging Face directory, in one of our run directories or in a checkpoint of MaxText's, or it is new.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jax.sharding import Mesh

from aloe_jax.errors import AloeError
from aloe_jax.models.backends import implementation
from aloe_jax.models.maxtext import checkpoints
from aloe_jax.models.run_directory import TOKENIZER, load_spec, read_run
from aloe_jax.models.settings import ModelSettings
from aloe_jax.models.spec import Compute, LanguageModel, ModelSpec, TokenizerIds
from aloe_jax.models.tensor_files import read_json
from aloe_jax.settings import shown
from aloe_jax.storage.copies import WEIGHTS, local_copy
from aloe_jax.storage.files import as_path, is_remote

Kind = Literal["scratch", "huggingface", "run", "maxtext checkpoint"]


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from; a checkpoint of MaxText's is of the model of `model.name` with `model.overrides`."""

    kind: Kind
    model: ModelSettings
    path: Path  # of its directory; nothing where it is new

    @property
    def tokenizer(self) -> Path | None:
        """The directory of its tokenizer; None where it has none."""
        return {"huggingface": self.path, "run": self.path / TOKENIZER}.get(self.kind)

    def spec(self, ids: TokenizerIds | None = None) -> ModelSpec:
        """Its spec, for a tokenizer with these ids where one is known: replies end at its tokens, too.

        Of a directory in a bucket the weights are not downloaded.
        """
        ids = ids or TokenizerIds()
        if self.kind == "run":
            return load_spec(self.path).ending(ids.eos_ids)
        if self.kind == "huggingface":
            return self._read(local_copy(self.path, leave=WEIGHTS)).ending(ids.eos_ids)
        return implementation(self.model.backend).from_scratch(self.model, ids)

    def load(
        self,
        dtype: str = "float32",
        mesh: Mesh | None = None,
        compute: Compute | None = None,
        spec: ModelSpec | None = None,
        seed: int = 0,
    ) -> LanguageModel:
        """The model, its parameters in `dtype`, laid out over `mesh` where one is given.

        A directory says by itself what its model is; `spec` is for a new model, drawn from `seed`, and for a checkpoint
        of MaxText's. Raises AloeError naming what is missing, cut short or of another kind.
        """
        if self.kind == "run":
            return load_run(self.path, dtype, mesh, compute)
        if self.kind == "huggingface":
            path = local_copy(self.path)
            found = self._read(path)
            tied = read_json(path / "config.json").get("tie_word_embeddings", False)
            if is_remote(self.path) and tied and not found.tie_embeddings:
                raise AloeError(
                    f"{self.path}: config.json ties the head to the embedding, but the weights have another head; set "
                    "tie_word_embeddings to false in config.json to use it"
                )
            return found.load_huggingface(path, dtype, mesh, compute)
        spec = spec or self.spec()
        if self.kind == "maxtext checkpoint":
            return spec.load_checkpoint(self.path, dtype, mesh, compute)
        assert mesh is not None
        return spec.build(seed, dtype, mesh, compute)

    def _read(self, path: Path) -> ModelSpec:
        return implementation(self.model.backend).read_huggingface(path, self.model.overrides)


def open_model(model: ModelSettings | str | Path) -> ModelSource:
    """What a setting, or the path of a model directory, means. Reads nothing but names of files, and config.json.

    A path alone, to a Hugging Face directory of a family that only MaxText has, means one of its models. Raises
    AloeError where there is no model, or where backend and name do not fit what is there.
    """
    if not isinstance(model, ModelSettings):  # a path in a bucket is no pathlib.Path
        path = as_path(model)
        if not is_huggingface(path):
            return ModelSource("run", ModelSettings(), path)
        return ModelSource("huggingface", ModelSettings(backend="maxtext" if _only_maxtext(path) else "native"), path)
    if model.path is None:
        return ModelSource("scratch", model, Path())
    path = as_path(model.path)
    if checkpoints.items(path) is not None:
        if model.backend != "maxtext":
            raise AloeError(
                f"model.backend: {path} is a checkpoint of MaxText's; set maxtext, and model.name to what it is of"
            )
        if model.name is None:
            raise AloeError(
                f"model.name: {path} does not say of which of MaxText's models it is; give its name, such as "
                "llama3.1-8b, and in model.overrides what it was saved with besides"
            )
        return ModelSource("maxtext checkpoint", model, path)
    kind: Kind = "huggingface" if is_huggingface(path) else "run"
    if model.name is not None:
        raise AloeError(f"model.name: {path} says which model it is; leave the name out")
    return ModelSource(kind, model, path)


def load_pretrained(
    path: str | Path, dtype: str = "float32", mesh: Mesh | None = None, compute: Compute | None = None
) -> LanguageModel:
    """The model in a Hugging Face directory or in one of our run directories (its newest checkpoint).

    Parameters come in `dtype`, laid out over `mesh` where one is given. Raises AloeError naming what is missing, cut
    short or of another kind.
    """
    return open_model(path).load(dtype, mesh, compute)


def load_run(
    directory: str | Path,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    compute: Compute | None = None,
    step: int | None = None,
    *,
    merge: bool = True,
) -> LanguageModel:
    """The model of a run at `step` (default: the newest), cast to `dtype`, each device reading its own shards.

    Where the run trained adapters, they are added to the weights of the model they belong to; with `merge` False
    the model comes with its adapters beside its weights (see native/lora.py). Raises AloeError when the run has no such
    checkpoint, when it holds another model than spec.json says, or when the adapters' model is not there.
    """
    model = read_run(directory, dtype, mesh, compute, step, lambda base: load_pretrained(base, dtype, mesh, compute))
    return model.merged() if merge else model


def _only_maxtext(path: Path) -> bool:
    """Whether a Hugging Face directory is of a family that MaxText has and our decoder has not."""
    from aloe_jax.models.maxtext.families import FAMILIES as THEIRS
    from aloe_jax.models.native.families import FAMILIES

    kind = read_json(path / "config.json").get("model_type")
    return kind in THEIRS and kind not in FAMILIES


def tokenizer_directory(path: str | Path) -> Path:
    """The directory of the tokenizer of a model directory."""
    return as_path(path) if is_huggingface(path) else as_path(path) / TOKENIZER


def is_huggingface(path: str | Path) -> bool:
    """Whether `path` is a Hugging Face directory (True) or one of our runs (False); AloeError when neither."""
    path = as_path(path)
    if (path / "config.json").exists():
        return True
    if (path / "spec.json").exists():
        return False
    if (path / "adapter_config.json").exists():
        base = read_json(path / "adapter_config.json").get("base_model_name_or_path")
        beside = f"of {shown(base)}, not a model" if base else "and no model"
        raise AloeError(
            f"{path}: holds adapters {beside}; give the run they were exported from, or export that run without "
            "--adapter. Adapters of other tools: merge them with peft (PeftModel.from_pretrained, merge_and_unload, "
            "save_pretrained)"
        )
    what = "holds neither config.json (Hugging Face) nor spec.json (a run)" if path.exists() else "not found"
    raise AloeError(f"{path}: {what}; give a model directory")
