"""Adapters as a directory that `peft` loads beside the model they belong to."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from aloe_jax.data.tokenizer_files import TransformersTokenizer, save_tokenizer
from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from aloe_jax.models import generation
from aloe_jax.models.huggingface import write_json
from aloe_jax.models.native.families import keys
from aloe_jax.models.settings import LoRASettings
from aloe_jax.models.spec import LanguageModel
from aloe_jax.storage.disk import as_os_error
from aloe_jax.storage.replacing import Kind, replacing

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
# What earlier versions wrote had no digests.json.
KIND = Kind(
    "adapter export",
    (
        r"adapter_model\.safetensors", r"adapter_config\.json", r"generation_config\.json", r"README\.md",
        r"tokenizer(_config)?\.json", r"special_tokens_map\.json", r"chat_template\.jinja",
    ),
    (("README.md", "aloe-jax"), ("adapter_config.json", "LORA")),
)  # fmt: skip


def save_adapter_directory(
    model: LanguageModel,
    path: str | Path,
    base: str,
    dtype: str | None = None,
    tokenizer: TransformersTokenizer | None = None,
    card: str = "",
    settings: Mapping[str, JSON] | None = None,
) -> int:
    """Write the adapters of `model`, which belong to the Hugging Face model `base` (a directory or a name).

    `dtype`: of the stored adapters, by default their own. `settings`: the generation_config.json of that model; the
    one written beside the adapters says at which tokens theirs end. Written beside `path`, read back, compared and
    renamed. Returns the number of values. Raises AloeError when the model has no adapters, when `path` holds something
    else, or what was read back differs.
    """
    if model.lora is None:
        raise AloeError(f"{path}: the model has no adapters; leave --adapter out to export all of its weights")
    tensors = adapter_tensors(model, dtype)
    with replacing(path, KIND, last=SETTINGS) as directory:
        with as_os_error():
            save_file(tensors, str(directory / WEIGHTS), metadata={"format": "pt"})
        write_json(directory / SETTINGS, adapter_settings(model.lora, str(model.spec.family), base))
        write_json(directory / generation.FILE, generation.merged(model.spec, settings or {}))
        shutil.copymode(directory / SETTINGS, directory / WEIGHTS)  # safetensors makes it for the owner only
        if tokenizer is not None:
            save_tokenizer(tokenizer, directory, model.spec.vocab)
        if card:
            (directory / "README.md").write_text(card)
        found = load_file(str(directory / WEIGHTS))
        for key, tensor in tensors.items():
            if key not in found or found[key].tobytes() != tensor.tobytes():
                raise AloeError(f"{path}: {key} read back differs from the model; check the disk and export again")
    return sum(tensor.size for tensor in tensors.values())


def adapter_tensors(model: LanguageModel, dtype: str | None = None) -> dict[str, np.ndarray]:
    """Every adapter by peft's key: lora_A [rank, inputs] and lora_B [outputs, rank] of every layer and target."""
    assert model.lora is not None
    table, adapters = keys(str(model.spec.family)), model.adapter_values()
    tensors: dict[str, np.ndarray] = {}
    for name in model.lora.targets:
        pattern = "base_model.model." + table[f"layers.{name}"][0].removesuffix(".weight")
        a, b = (np.asarray(adapters[f"{name}_{side}"]) for side in "ab")
        for layer in range(model.spec.layers):
            flat = {
                "lora_A": a[layer].reshape(-1, model.lora.rank),
                "lora_B": b[layer].reshape(model.lora.rank, math.prod(b.shape[2:])),
            }
            for side, matrix in flat.items():
                stored = matrix.T.astype(jnp.dtype(dtype) if dtype else matrix.dtype)
                tensors[f"{pattern.format(layer)}.{side}.weight"] = np.ascontiguousarray(stored)
    return tensors


def adapter_settings(lora: LoRASettings, family: str, base: str) -> dict[str, JSON]:
    """The content of adapter_config.json."""
    table = keys(family)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": [
            table[f"layers.{name}"][0].removesuffix(".weight").rpartition(".")[2] for name in lora.targets
        ],
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
