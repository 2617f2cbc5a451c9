"""The model families: what they add to Llama's arithmetic, in config.json and in the keys of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aloe_jax.json_value import JSON
from aloe_jax.models.values import Values

# Our name -> (Hugging Face's key, how many of our leading axes are inputs of the matrix). Linear layers are stored
# there as [outputs, inputs], so those are transposed; 0: stored as it is. Families differ where they say so.
ATTENTION, MLP = "model.layers.{}.self_attn.", "model.layers.{}.mlp."
KEYS: dict[str, tuple[str, int]] = {
    "embedding": ("model.embed_tokens.weight", 0),
    "layers.attention_norm": ("model.layers.{}.input_layernorm.weight", 0),
    "layers.query": (ATTENTION + "q_proj.weight", 1),
    "layers.key": (ATTENTION + "k_proj.weight", 1),
    "layers.value": (ATTENTION + "v_proj.weight", 1),
    "layers.output": (ATTENTION + "o_proj.weight", 2),
    "layers.query_bias": (ATTENTION + "q_proj.bias", 0),
    "layers.key_bias": (ATTENTION + "k_proj.bias", 0),
    "layers.value_bias": (ATTENTION + "v_proj.bias", 0),
    "layers.output_bias": (ATTENTION + "o_proj.bias", 0),
    "layers.query_norm": (ATTENTION + "q_norm.weight", 0),
    "layers.key_norm": (ATTENTION + "k_norm.weight", 0),
    "layers.feed_forward_norm": ("model.layers.{}.post_attention_layernorm.weight", 0),
    "layers.gate": (MLP + "gate_proj.weight", 1),
    "layers.up": (MLP + "up_proj.weight", 1),
    "layers.down": (MLP + "down_proj.weight", 1),
    "layers.gate_bias": (MLP + "gate_proj.bias", 0),
    "layers.up_bias": (MLP + "up_proj.bias", 0),
    "layers.down_bias": (MLP + "down_proj.bias", 0),
    "final_norm": ("model.norm.weight", 0),
    "head": ("lm_head.weight", 1),
}

QKV = ("query", "key", "value")
PARTS = ("q_norm", "post_feedforward_layernorm", "input_layernorm", "q_proj.bias")  # of keys: by which families differ


@dataclass(frozen=True)
class Family:
    """One `model_type`. `reads` are settings of config.json beyond Llama's, with what an absent one means.

    That is what transformers takes it for.
    """

    title: str
    architecture: str  # the class of transformers
    parts: frozenset[str]  # which of PARTS its keys have; attention_bias may add the last
    switches: Values = field(default_factory=dict)  # fields of DecoderShape that all its models share
    reads: Values = field(default_factory=dict)
    keys: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # where they differ from KEYS


BEGIN_END: dict[str, JSON] = {"bos_token_id": 1, "eos_token_id": 2}
END_PAD: dict[str, JSON] = {"eos_token_id": 50279, "pad_token_id": 1}
LAYERED_WINDOW = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28, "layer_types": None}
FAMILIES: dict[str, Family] = {
    "llama": Family(
        "Llama", "LlamaForCausalLM", frozenset({"input_layernorm"}),
        reads={"attention_bias": False, "mlp_bias": False, **BEGIN_END},
    ),
    "mistral": Family(
        "Mistral", "MistralForCausalLM", frozenset({"input_layernorm"}),
        reads={"sliding_window": 4096, "num_key_value_heads": 8, **BEGIN_END},
    ),
    "qwen2": Family(
        "Qwen 2", "Qwen2ForCausalLM", frozenset({"input_layernorm", "q_proj.bias"}),
        switches={"biases": QKV}, reads={"num_key_value_heads": 32, **LAYERED_WINDOW},
    ),
    "qwen3": Family(
        "Qwen 3", "Qwen3ForCausalLM", frozenset({"input_layernorm", "q_norm"}), switches={"qk_norm": "head"},
        reads={"attention_bias": False, "num_key_value_heads": 32, "head_dim": 128, **LAYERED_WINDOW},
    ),
    "olmo": Family(
        "OLMo", "OlmoForCausalLM", frozenset(), switches={"norm": "layer", "norm_eps": 1e-5},
        reads={"attention_bias": False, "clip_qkv": None, **END_PAD},
    ),
    "olmo2": Family(
        "OLMo 2", "Olmo2ForCausalLM", frozenset({"q_norm", "post_feedforward_layernorm"}),
        switches={"norm_place": "output", "qk_norm": "projection"},
        reads={"attention_bias": False, "rms_norm_eps": 1e-5, **END_PAD},
        keys={
            "layers.attention_norm": ("model.layers.{}.post_attention_layernorm.weight", 0),
            "layers.feed_forward_norm": ("model.layers.{}.post_feedforward_layernorm.weight", 0),
        },
    ),
}  # fmt: skip


def keys(family: str) -> dict[str, tuple[str, int]]:
    """KEYS of one family."""
    return KEYS | dict(FAMILIES[family].keys)


def resembling(names: Iterable[str]) -> list[str]:
    """The families whose tensors have keys like these; none where they are not even like Llama's."""
    names = list(names)
    if KEYS["layers.query"][0].format(0) not in names:
        return []
    found = {part for part in PARTS if any(part in name for name in names)}
    if any("o_proj.bias" in name for name in names):
        found.discard("q_proj.bias")  # attention_bias, which several families have
    return [name for name, family in FAMILIES.items() if family.parts == found]
