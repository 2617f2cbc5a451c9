"""Sizes of published models, for plans made before their weights are at hand.

Each entry is what the model's config.json says, read by ModelSpec as that file would be. A model's directory is taken
to hold what its name says; once it is there, its own config.json counts.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from aloe_jax.json_value import JSON
from aloe_jax.models.backends import implementation
from aloe_jax.models.settings import ModelSettings
from aloe_jax.models.spec import ModelSpec, TokenizerIds
from aloe_jax.models.values import stretched_rope

Sizes = dict[str, JSON]


def _sizes(family: str, vocab: int, layers: int, width: int, heads: int, keys: int, inner: int, longest: int) -> Sizes:
    return {
        "model_type": family,
        "vocab_size": vocab,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "intermediate_size": inner,
        "max_position_embeddings": longest,
        "sliding_window": None,
    }


LLAMA3_8B = _sizes("llama", 128_256, 32, 4096, 32, 8, 14_336, 8192) | {"rope_theta": 5e5}
LLAMA3_70B = _sizes("llama", 128_256, 80, 8192, 64, 8, 28_672, 8192) | {"rope_theta": 5e5}
LONG: Sizes = {"max_position_embeddings": 131_072, "rope_scaling": stretched_rope(8.0, 1.0, 4.0, 8192)}
MISTRAL_7B = _sizes("mistral", 32_768, 32, 4096, 32, 8, 14_336, 32_768) | {"rope_theta": 1e6}
QWEN2_7B = _sizes("qwen2", 152_064, 28, 3584, 28, 4, 18_944, 32_768) | {"rope_theta": 1e6}
OLMO_7B = _sizes("olmo", 50_304, 32, 4096, 32, 32, 11_008, 4096) | {"rope_theta": 1e4}
OLMO2_7B = _sizes("olmo2", 100_352, 32, 4096, 32, 32, 11_008, 4096) | {"rope_theta": 5e5}

# By the last part of the model's name on the Hugging Face Hub, as far as it is the same for all tunings of a model.
ARCHITECTURES: dict[str, Sizes] = {
    "Meta-Llama-3-8B": LLAMA3_8B,
    "Meta-Llama-3-70B": LLAMA3_70B,
    "Llama-3.1-8B": LLAMA3_8B | LONG,
    "Llama-3.1-70B": LLAMA3_70B | LONG,
    "Mistral-7B-Instruct-v0.3": MISTRAL_7B,
    "Mistral-7B-v0.3": MISTRAL_7B,
    "Qwen2-7B": QWEN2_7B,
    "Qwen2.5-7B": QWEN2_7B,
    "OLMo-7B-0724": OLMO_7B,
    "OLMo-2-1124-7B": OLMO2_7B,
}


def published(path: str, model: ModelSettings | None = None) -> tuple[str, ModelSpec] | None:
    """Name and sizes of the published model that a directory is named after; None where it is named otherwise.

    `model` says by its backend what is to be made of them, and may itself name one of MaxText's models.
    """
    if model is not None and model.name is not None:
        return model.name, implementation(model.backend).from_scratch(model, TokenizerIds())
    name = PurePosixPath(path.rstrip("/")).name
    found = [each for each in ARCHITECTURES if name.lower().startswith(each.lower())]
    if not found:
        return None
    known = max(found, key=len)
    kind = implementation("native" if model is None else model.backend)
    overrides = None if model is None else model.overrides
    return known, kind.from_huggingface(ARCHITECTURES[known], f"sizes of {known}", overrides)
