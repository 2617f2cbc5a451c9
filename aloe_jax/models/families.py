"""The model families: what each adds to Llama's arithmetic, in config.json and in the keys of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aloe_jax.errors import AloeError
from aloe_jax.models.values import MOST, number, shown

if TYPE_CHECKING:
    from aloe_jax.models.spec import ModelSpec

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
PARTS = ("q_norm", "post_feedforward_layernorm", "input_layernorm", "q_proj.bias")  # of keys: they tell families apart


@dataclass(frozen=True)
class Family:
    """One `model_type`. `reads` are settings of config.json beyond Llama's, with what an absent one means.

    That is what transformers takes it for.
    """

    title: str
    architecture: str  # the class of transformers
    parts: frozenset[str]  # which of PARTS its keys have; attention_bias may add the last
    switches: Mapping[str, Any] = field(default_factory=dict)  # fields of ModelSpec that all its models share
    reads: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # where they differ from KEYS


BEGIN_END: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2}
END_PAD: dict[str, Any] = {"eos_token_id": 50279, "pad_token_id": 1}
LAYERED_WINDOW = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28, "layer_types": None}
FAMILIES: dict[str, Family] = {
    "llama": Family(
        "Llama",
        "LlamaForCausalLM",
        frozenset({"input_layernorm"}),
        reads={"attention_bias": False, "mlp_bias": False, **BEGIN_END},
    ),
    "mistral": Family(
        "Mistral",
        "MistralForCausalLM",
        frozenset({"input_layernorm"}),
        reads={"sliding_window": 4096, "num_key_value_heads": 8, **BEGIN_END},
    ),
    "qwen2": Family(
        "Qwen 2",
        "Qwen2ForCausalLM",
        frozenset({"input_layernorm", "q_proj.bias"}),
        switches={"biases": QKV},
        reads={"num_key_value_heads": 32, **LAYERED_WINDOW},
    ),
    "qwen3": Family(
        "Qwen 3",
        "Qwen3ForCausalLM",
        frozenset({"input_layernorm", "q_norm"}),
        switches={"qk_norm": "head"},
        reads={"attention_bias": False, "num_key_value_heads": 32, "head_dim": 128, **LAYERED_WINDOW},
    ),
    "olmo": Family(
        "OLMo",
        "OlmoForCausalLM",
        frozenset(),
        switches={"norm": "layer", "norm_eps": 1e-5},
        reads={"attention_bias": False, "clip_qkv": None, **END_PAD},
    ),
    "olmo2": Family(
        "OLMo 2",
        "Olmo2ForCausalLM",
        frozenset({"q_norm", "post_feedforward_layernorm"}),
        switches={"norm_place": "output", "qk_norm": "projection"},
        reads={"attention_bias": False, "rms_norm_eps": 1e-5, **END_PAD},
        keys={
            "layers.attention_norm": ("model.layers.{}.post_attention_layernorm.weight", 0),
            "layers.feed_forward_norm": ("model.layers.{}.post_feedforward_layernorm.weight", 0),
        },
    ),
}


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


def read_switches(family: str, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of ModelSpec, beyond sizes and RoPE, that a config.json of this family sets.

    Raises AloeError naming `where` and the setting when it cannot be computed.
    """
    table = FAMILIES[family]
    given = {key: values.get(key, absent) for key, absent in table.reads.items()}
    switches = dict(table.switches)
    biases = [*QKV, "output"] if given.get("attention_bias") else list(switches.get("biases", ()))
    if given.get("mlp_bias"):
        biases += ["gate", "up", "down"]
    windows = _windows(given, values["num_hidden_layers"], where)
    clip = given.get("clip_qkv")
    if clip is not None:
        clip = number(clip, "clip_qkv", where)
    switches |= {"biases": tuple(biases), "windows": windows, "clip_qkv": clip}
    return switches


def write_switches(spec: ModelSpec) -> dict[str, Any]:
    """The settings that `read_switches` reads back as this spec's."""
    reads = FAMILIES[spec.family].reads
    widest = max(spec.windows, default=0)
    settings: dict[str, Any] = {
        "attention_bias": "output" in spec.biases,
        "mlp_bias": "gate" in spec.biases,
        "clip_qkv": spec.clip_qkv,
        "sliding_window": widest or None,
        "use_sliding_window": bool(widest),
        "layer_types": [
            "sliding_attention" if window else "full_attention" for window in spec.windows or (0,) * spec.layers
        ],
        # What transformers before layer_types goes by: the first layer from which on all have the window.
        "max_window_layers": next((at for at in range(spec.layers) if all(spec.windows[at:] or (0,))), spec.layers),
    }
    return {key: value for key, value in settings.items() if key in reads}


def _windows(given: Mapping[str, Any], layers: int, where: str) -> tuple[int, ...]:
    """Every layer's window by config.json, () when no layer has one."""
    size = given.get("sliding_window") if given.get("use_sliding_window", True) else None
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= MOST):
        raise AloeError(f"{where}: sliding_window is {shown(size)}; supported: null or a positive number")
    if "layer_types" not in given:  # all layers alike
        return (size,) * layers if size else ()
    types = given["layer_types"]
    if types is None:
        first = given["max_window_layers"]
        if isinstance(first, bool) or not isinstance(first, int):
            raise AloeError(f"{where}: max_window_layers is {shown(first)}; expected a whole number")
        types = ["sliding_attention" if size and at >= first else "full_attention" for at in range(layers)]
    if not isinstance(types, list):
        raise AloeError(f"{where}: layer_types is {shown(types)}; expected null or a list with an entry a layer")
    if len(types) != layers:
        raise AloeError(f"{where}: layer_types has {len(types)} entries for {layers} layers")
    for kind in types:
        if kind not in ("full_attention", "sliding_attention"):
            raise AloeError(f"{where}: layer_types has {shown(kind)}; supported: full_attention, sliding_attention")
        if kind == "sliding_attention" and size is None:
            raise AloeError(f"{where}: layer_types has sliding_attention, but sliding_window gives it no size")
    windows = tuple(size if size and kind == "sliding_attention" else 0 for kind in types)
    return windows if any(windows) else ()
