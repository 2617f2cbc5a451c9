"""generation_config.json: at which tokens replies end, and how a model is meant to be sampled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from aloe_jax.data.template import ChatTemplate
from aloe_jax.data.tokenizer_files import TransformersTokenizer
from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from aloe_jax.models.spec import ModelSpec
from aloe_jax.models.tensor_files import read_json
from aloe_jax.models.values import token_id, token_ids
from aloe_jax.storage.files import as_path, write_atomically

FILE = "generation_config.json"
# What transformers notes of itself, which is not true of a file that we write.
NOTES = ("_from_model_config", "transformers_version", "_commit_hash")


def read(directory: Path) -> dict[str, JSON]:
    """The settings in a directory, {} where it has none. Raises AloeError naming the file and what is wrong in it."""
    file = directory / FILE
    if not file.is_file():
        return {}
    values = read_json(file)
    token_ids(values.get("eos_token_id"), "eos_token_id", str(file))
    for key in ("bos_token_id", "pad_token_id"):
        token_id(values.get(key), key, str(file))
    return values


def with_settings[S: ModelSpec](spec: S, values: Mapping[str, JSON]) -> S:
    """A spec with the ids that end a reply by these settings, too, and with their padding where it has none."""
    pad = spec.pad_id if spec.pad_id is not None else token_id(values.get("pad_token_id"), "pad_token_id", FILE)
    ending = spec.ending(token_ids(values.get("eos_token_id")))
    return ending if pad == ending.pad_id else ending.with_ids(ending.eos_ids, pad)


def template_ends(tokenizer: TransformersTokenizer) -> tuple[int, ...]:
    """The ids at which a reply ends by a tokenizer's chat template; () where it has none that ends replies."""
    try:
        return ChatTemplate(tokenizer).stop
    except AloeError:
        return ()


def merged(spec: ModelSpec, source: Mapping[str, JSON]) -> dict[str, JSON]:
    """What to write for a model: the settings of its source, and its own special tokens."""
    kept = {key: value for key, value in source.items() if key not in NOTES}
    ends: list[JSON] = list(dict.fromkeys((*spec.eos_ids, *token_ids(source.get("eos_token_id")))))
    own: dict[str, JSON] = {"bos_token_id": spec.bos_id, "eos_token_id": ends, "pad_token_id": spec.pad_id}
    kept |= {key: value for key, value in own.items() if value not in (None, [])}
    return kept


def keep(source: str | Path, directory: Path) -> None:
    """Copy the settings of the model that training starts from, which are beside its tokenizer, into another directory.

    Raises AloeError where they cannot be used.
    """
    values = read(as_path(source))
    if values:
        write_atomically(directory / FILE, json.dumps(values, indent=2) + "\n")
