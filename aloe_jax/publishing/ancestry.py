"""What a model was made from: the directories that must stay as they are while it is in use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from aloe_jax.errors import AloeError
from aloe_jax.settings import load_settings
from aloe_jax.storage.files import as_path, resolved
from aloe_jax.training.settings import TrainSettings


def ancestors(source: str | Path) -> dict[Path, str]:
    """Every directory that the model in `source` needs, without links, and what it is.

    They are the source, whatever its stages started from, their tokenizers, references and data, and the
    models that adapters belong to. A link in the chain that is gone or cannot be read ends it there.
    """
    found: dict[Path, str] = {resolved(source): "the checkpoint itself"}
    waiting = [as_path(source)]
    while waiting:
        for path, what in _made_from(waiting.pop()):
            try:
                where = resolved(path)
            except AloeError:  # a path that we cannot read
                continue
            if where not in found:
                found[where] = what
                if what.startswith("the model"):
                    waiting.append(as_path(path))
    return found


def check_apart(target: str | Path, source: str | Path, base: str | None = None) -> None:
    """Raise AloeError where `target` is one of the ancestors of `source`, holds one, or is what adapters go beside."""
    known = ancestors(source)
    if base is not None and as_path(base).exists():
        known = {**ancestors(base), resolved(base): "the model of --base", **known}
    where = resolved(target)
    for path, what in known.items():
        if path == where:
            raise AloeError(f"{target}: is {what}; give another --output")
        if where in path.parents:
            raise AloeError(f"{target}: holds {path}, {what}; give another --output")


def _made_from(directory: Path) -> Iterator[tuple[str, str]]:
    """Paths that a run's or an adapter's own files name, with what they are to it.

    Relative ones are given from where this command runs, and from where the run was trained if its output says that.
    """
    began = working_directory(directory)
    for path, what in _named(directory):
        yield path, what
        if began is not None and "://" not in path and not Path(path).is_absolute():
            yield str(began / path), what


def working_directory(directory: Path) -> Path | None:
    """The directory from which a run was trained: its own path without its output; None where that is not its end."""
    try:
        output = Path(load_settings(TrainSettings, directory / "config.yaml").output)
        where = resolved(directory)
    except (AloeError, OSError):
        return None
    count = len(output.parts)
    return where.parents[count - 1] if 0 < count < len(where.parts) and where.parts[-count:] == output.parts else None


def _named(directory: Path) -> Iterator[tuple[str, str]]:
    try:
        stage = load_settings(TrainSettings, directory / "config.yaml")
    except (AloeError, OSError):
        stage = None
    if stage is not None:
        named = [
            (stage.model.path, f"the model that {directory} was trained from"),
            (stage.model.tokenizer, f"the tokenizer of the run {directory}"),
            (stage.dpo.reference_cache, f"the reference of the run {directory}"),
            (stage.rl.personas, f"the personas of the run {directory}"),
            *((source.path, f"the data of the run {directory}") for source in stage.data.sources),
        ]
        yield from ((path, what) for path, what in named if path is not None)
    for file, key in (("adapter.json", "base"), ("adapter_config.json", "base_model_name_or_path")):
        try:
            base = json.loads((directory / file).read_text())[key]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(base, str) and base:
            yield base, f"the model that the adapters in {directory} belong to"
