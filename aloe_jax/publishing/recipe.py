"""The recipe of a trained model: what a training would have to repeat for another run of the same kind.

That is all settings of its run and of the runs that it starts from, but for the seeds, the directories that runs are
written to, and what changes nothing that is learned (`aloe_jax.training.claim.is_free`). A model that no run of ours
trained is known by its content.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from aloe_jax.errors import AloeError
from aloe_jax.models.checkpoint_files import checkpoint_steps
from aloe_jax.models.fingerprint import fingerprint
from aloe_jax.models.run_directory import SPEC
from aloe_jax.publishing.ancestry import working_directory
from aloe_jax.settings import load_settings
from aloe_jax.storage.files import as_path, is_remote
from aloe_jax.training.base import RECORD, WORLD
from aloe_jax.training.claim import CONFIG, is_free, is_of
from aloe_jax.training.settings import TrainSettings
from aloe_jax.yaml_text import parse_yaml

# A digest of these and of `stages` names a recipe. The model and the tokenizer that a run began with go in by what they
# are, and reference log-probs follow from the model.
_LEFT_OUT = ("seed", "model.path", "model.tokenizer", "dpo.reference_cache")
# Versions before it was a setting held out conversations; a run's config has all settings, so that it is missing there.
_HELD_OUT = "validation_by"
_DEEPEST = 50  # runs in a chain


@dataclass(frozen=True)
class Recipe:
    """Of a trained model: a digest of 16 hex digits, and by run, from the first to the last, its stage and its seed."""

    digest: str
    stages: tuple[str, ...]
    seeds: tuple[int, ...]


def recipe_of(directory: str | Path) -> Recipe | None:
    """The recipe of the model in a directory; None where no run of ours is there, or its settings cannot be read.

    A run that the model started from counts with its recipe where its weights are what the model began with, and else
    as the weights that were recorded, so that runs from other weights are of another recipe.
    """
    return _recipe(as_path(directory), _DEEPEST)


def _recipe(directory: Path, depth: int) -> Recipe | None:
    try:
        if not depth or not (directory / SPEC).exists() or not (directory / CONFIG).exists():
            return None
        settings = load_settings(TrainSettings, directory / CONFIG)
        recorded = parse_yaml((directory / CONFIG).read_bytes())
        steps = checkpoint_steps(directory)
    except (AloeError, OSError):
        return None
    begun = _begun_with(directory)
    base: Recipe | None = None
    paths: dict[str, str | None] = {"model.path": settings.model.path, "model.tokenizer": settings.model.tokenizer}
    content = {key: begun.get(key, path) for key, path in paths.items()}
    if settings.model.path is not None:
        base = _base(directory, settings.model.path, begun.get("model.path"), depth)
        if base is not None:
            content["model.path"] = base.digest
    if WORLD in begun:
        content[WORLD] = begun[WORLD]
    values = _flat(settings.model_dump(mode="json", exclude_defaults=True))
    learned = {key: value for key, value in values.items() if not is_free(key) and not is_of(key, _LEFT_OUT)}
    data = recorded.get("data") if isinstance(recorded, dict) else None
    if not isinstance(data, dict) or _HELD_OUT not in data:
        learned[f"data.{_HELD_OUT}"] = "conversation"
    # The newest checkpoint is the model: a run that has not come as far is another one.
    described = json.dumps([learned, content, steps[-1:]], sort_keys=True)
    stages, seeds = (base.stages, base.seeds) if base else ((), ())
    digest = hashlib.sha256(described.encode()).hexdigest()[:16]
    return Recipe(digest, (*stages, settings.stage), (*seeds, settings.seed))


def _base(directory: Path, path: str, recorded: str | None, depth: int) -> Recipe | None:
    """The recipe of the run that a model started from, if its weights still are those that it began with."""
    where = [as_path(path)]
    if not is_remote(path) and not Path(path).is_absolute() and (root := working_directory(directory)) is not None:
        where.append(root / path)
    for parent in where:
        found = _recipe(parent, depth - 1)
        if found is None:
            continue
        try:
            if recorded is None or fingerprint(parent) == recorded:
                return found
        except AloeError:
            continue
    return None


def _begun_with(directory: Path) -> dict[str, str]:
    """The fingerprints that the run recorded, by setting; nothing where an earlier version began it."""
    try:
        record = json.loads((directory / RECORD).read_bytes())
        return {str(key): str(value["fingerprint"]) for key, value in record.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _flat(values: dict[str, object], before: str = "") -> dict[str, object]:
    """Nested settings by dotted key."""
    found: dict[str, object] = {}
    for name, value in values.items():
        key = f"{before}.{name}" if before else name
        found |= _flat(value, key) if isinstance(value, dict) else {key: value}
    return found
