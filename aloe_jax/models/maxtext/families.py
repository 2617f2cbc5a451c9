"""The families whose Hugging Face directories MaxText's models are read from and written to: settings and weights.

Each is checked against transformers by golden values; the others are refused. A weight of MaxText is named by what
follows its layer, such as `mlp.wi_0.kernel`, and made from the tensor of the other name by a `Layout`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any  # noqa: TID251  see Config

from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from aloe_jax.models.values import Values, rope, stretched_rope

Settings = dict[str, Any]  # of MaxText
Config = Any  # all of its settings, resolved: an object that it makes of a table of some 700, without a type

LAYER = "model.layers.{layer}."


@dataclass(frozen=True)
class Layout:
    """How a tensor becomes a weight: [outputs, inputs] turned over, RoPE's halves interleaved, scaled, moved."""

    inputs: int = 0  # how many axes of the weight are inputs of a matrix; 0: stored as it is
    interleaved: bool = False  # the two halves of a head alternate
    scale: str = ""  # by what it is multiplied: width_root (√D) or query_root (1 / √query scale)
    plus: float = 0.0  # added: Gemma's norms are stored without their 1


SAME, MATRIX, OUTPUT = Layout(), Layout(1), Layout(2)
FOLDED = Layout(1, scale="query_root")  # attention there does not divide by √H: queries come divided

NORMS = {
    "pre_self_attention_layer_norm.scale": (LAYER + "input_layernorm.weight", SAME),
    "post_self_attention_layer_norm.scale": (LAYER + "post_attention_layernorm.weight", SAME),
}
MLP = {
    "mlp.wi_0.kernel": (LAYER + "mlp.gate_proj.weight", MATRIX),
    "mlp.wi_1.kernel": (LAYER + "mlp.up_proj.weight", MATRIX),
    "mlp.wo.kernel": (LAYER + "mlp.down_proj.weight", MATRIX),
}
QK_NORMS = {
    "self_attention.query_norm.scale": (LAYER + "self_attn.q_norm.weight", SAME),
    "self_attention.key_norm.scale": (LAYER + "self_attn.k_norm.weight", SAME),
}
BIASES = {
    f"self_attention.{name}.bias": (LAYER + f"self_attn.{name[0]}_proj.bias", SAME)
    for name in ("query", "key", "value")
}
TOP = {
    "token_embedder.embedding": ("model.embed_tokens.weight", SAME),
    "decoder.decoder_norm.scale": ("model.norm.weight", SAME),
    "decoder.logits_dense.kernel": ("lm_head.weight", MATRIX),
}
GEMMA_TOP = {
    "token_embedder.embedding": ("model.embed_tokens.weight", Layout(scale="width_root")),
    "decoder.decoder_norm.scale": ("model.norm.weight", Layout(plus=1.0)),
}


def attention(
    query: Layout = MATRIX, key: Layout = MATRIX, module: str = "self_attention"
) -> dict[str, tuple[str, Layout]]:
    """Names of the four products of attention."""
    return {
        f"{module}.query.kernel": (LAYER + "self_attn.q_proj.weight", query),
        f"{module}.key.kernel": (LAYER + "self_attn.k_proj.weight", key),
        f"{module}.value.kernel": (LAYER + "self_attn.v_proj.weight", MATRIX),
        f"{module}.out.kernel": (LAYER + "self_attn.o_proj.weight", OUTPUT),
    }


def gemma_norms() -> dict[str, tuple[str, Layout]]:
    """Four norms a layer."""
    names = {
        "pre_self_attention_norm": "input_layernorm",
        "post_self_attention_norm": "post_attention_layernorm",
        "pre_ffw_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
    return {f"{ours}.scale": (f"{LAYER}{theirs}.weight", Layout(plus=1.0)) for ours, theirs in names.items()}


def experts(block: str, gate: str, names: tuple[str, str, str]) -> dict[str, tuple[str, Layout]]:
    """A router and the experts' three products, tensors of their own for every expert."""
    return {
        f"{block}.gate.kernel": (LAYER + gate + ".gate.weight", MATRIX),
        **{
            f"{block}.{ours}": (f"{LAYER}{gate}.experts.{{expert}}.{theirs}.weight", MATRIX)
            for ours, theirs in zip(("wi_0", "wi_1", "wo"), names, strict=True)
        },
    }


@dataclass(frozen=True)
class MaxTextFamily:
    """One `model_type`. `reads` and `writes` are what it adds to the sizes that all have; see config.py."""

    title: str
    architecture: str  # the class of transformers
    base: str  # the MaxText model whose settings its own start from
    block: str  # MaxText's decoder_block
    names: Mapping[str, tuple[str, Layout]]
    top: Mapping[str, tuple[str, Layout]] = field(default_factory=lambda: TOP)
    absent: Values = field(default_factory=dict)  # settings of config.json, with the only value that can be computed
    reads: Callable[[Values, str], Settings] = lambda values, where: {}
    writes: Callable[[Config], dict[str, JSON]] = lambda config: {}
    theta: float = 10_000.0  # what an absent rope_theta means
    required: tuple[str, ...] = (
        "num_key_value_heads",
        "rms_norm_eps",
    )  # whose absence means another value in other families
    scaled_embedding: bool = False  # the embedding is stored times √D, and is the head unless config.json denies it
    query_scale: bool = False  # config.json has query_pre_attn_scalar, which is part of our weights


# ---------------------------------------------------------------- RoPE, windows, experts


def _kind(table: Values) -> object:
    return table.get("rope_type", table.get("type", "default"))


def plain_rope(values: Values, where: str) -> None:
    """Raise AloeError unless positions turn as they did in the first of these models."""
    kind = _kind(rope(values, where))
    if kind != "default":
        raise AloeError(f"{where}: rope_type is {kind!r}; of {values.get('model_type')} MaxText has only the default")


def _llama(values: Values, where: str) -> Settings:
    table = rope(values, where)
    kind = _kind(table)
    settings: Settings = {"rope_type": "llama3.1", "rope_use_scale": kind == "llama3"}
    if kind == "llama3":
        settings |= {
            "rope_factor": float(table["factor"]),
            "beta_slow": float(table["low_freq_factor"]),
            "beta_fast": float(table["high_freq_factor"]),
            "original_max_position_embeddings": int(table["original_max_position_embeddings"]),
        }
    elif kind != "default":
        raise AloeError(f"{where}: rope_type is {kind!r}; supported: default, llama3")
    return settings


def interleaved(config: Config) -> bool:
    """Whether the halves of a head alternate, as MaxText has it for Llama 3.1."""
    return config.model_name.startswith("llama3.1") or config.rope_type.lower().startswith("llama3.1")


def stretch(config: Config) -> tuple[float, float, float, int] | None:
    """Llama 3.1's stretched RoPE: factor, low, high, original length; None: not stretched.

    They are in settings that MaxText has for YaRN, whose defaults mean the one choice that MaxText itself has.
    """
    if not config.rope_use_scale:
        return None
    if (config.rope_factor, config.original_max_position_embeddings) == (40, 4096):
        return (8.0, 1.0, 4.0, 8192)
    return (config.rope_factor, config.beta_slow, config.beta_fast, config.original_max_position_embeddings)


def _llama_out(config: Config) -> dict[str, JSON]:
    stretched = stretch(config)
    table: dict[str, JSON] = {"rope_type": "default"} if stretched is None else stretched_rope(*stretched)
    return {"rope_parameters": table, "attention_bias": False, "mlp_bias": False}


def _without_windows(values: Values, where: str) -> Settings:
    plain_rope(values, where)
    window = values.get("sliding_window") if values.get("use_sliding_window", True) else None
    if window is not None and window < values["max_position_embeddings"]:
        raise AloeError(
            f"{where}: sliding_window is {window}; MaxText's {values.get('model_type')} has no windows: use our own "
            "decoder (model.backend=native) where it has the family"
        )
    return {}


def _qwen2(values: Values, where: str) -> Settings:
    return {**_without_windows({"use_sliding_window": False, **values}, where), "attention_bias": True}


def _qwen3(values: Values, where: str) -> Settings:
    return {**_without_windows({"use_sliding_window": False, **values}, where), "use_qk_norm": True}


def _routed(values: Values, count: str, inner: str) -> Settings:
    return {
        "num_experts": values[count],
        "num_experts_per_tok": values["num_experts_per_tok"],
        "base_moe_mlp_dim": values[inner],
        "base_mlp_dim": values[inner],
    }


def _qwen3_moe(values: Values, where: str) -> Settings:
    if values.get("mlp_only_layers") or values.get("decoder_sparse_step", 1) != 1:
        raise AloeError(f"{where}: some layers have no experts (mlp_only_layers, decoder_sparse_step); supported: all")
    count = "num_experts" if "num_experts" in values else "num_local_experts"  # of transformers 4 and 5
    settings = _routed(values, count, "moe_intermediate_size")
    return {**_qwen3(values, where), **settings, "norm_topk_prob": bool(values.get("norm_topk_prob", False))}


def _qwen3_moe_out(config: Config) -> dict[str, JSON]:
    return {
        "num_experts": config.num_experts,
        "num_local_experts": config.num_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "moe_intermediate_size": config.moe_mlp_dim,
        "norm_topk_prob": config.norm_topk_prob,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "attention_bias": False,
        "use_sliding_window": False,
    }


def _mixtral(values: Values, where: str) -> Settings:
    return {**_without_windows(values, where), **_routed(values, "num_local_experts", "intermediate_size")}


def _mixtral_out(config: Config) -> dict[str, JSON]:
    return {"num_local_experts": config.num_experts, "num_experts_per_tok": config.num_experts_per_tok,
            "sliding_window": None}  # fmt: skip


def _pattern(values: Values, where: str, cycle: int) -> int:
    """The window, where of `cycle` layers all but the last have one, over and over, as MaxText has it."""
    layers = values["num_hidden_layers"]
    expected = ["full_attention" if (at + 1) % cycle == 0 else "sliding_attention" for at in range(layers)]
    if values.get("layer_types", expected) != expected:
        raise AloeError(
            f"{where}: layer_types is not {cycle - 1} sliding layers before each full one; MaxText has only it"
        )
    return int(values["sliding_window"])


def _layer_types(config: Config, cycle: int, layers: int) -> dict[str, JSON]:
    kinds = ["full_attention" if (at + 1) % cycle == 0 else "sliding_attention" for at in range(layers)]
    return {"layer_types": kinds, "sliding_window": config.sliding_window_size}


def _gemma2(values: Values, where: str) -> Settings:
    plain_rope(values, where)
    if values["num_hidden_layers"] % 2:
        raise AloeError(f"{where}: num_hidden_layers is {values['num_hidden_layers']}; MaxText has layers in pairs")
    return {
        "base_num_decoder_layers": values["num_hidden_layers"] // 2,
        "sliding_window_size": _pattern(values, where, 2),
        "final_logits_soft_cap": values.get("final_logit_softcapping") or 0.0,
        "attn_logits_soft_cap": values.get("attn_logit_softcapping") or 0.0,
    }


def _gemma2_out(config: Config) -> dict[str, JSON]:
    return {
        "num_hidden_layers": 2 * config.num_decoder_layers,
        **_layer_types(config, 2, 2 * config.num_decoder_layers),
        "final_logit_softcapping": config.final_logits_soft_cap or None,
        "attn_logit_softcapping": config.attn_logits_soft_cap or None,
        "hidden_activation": "gelu_pytorch_tanh",
    }


def _gemma3(values: Values, where: str) -> Settings:
    table = rope(values, where)
    if not isinstance(table.get("full_attention"), Mapping):  # transformers 4: the windows' own, the others' scaled
        full: Values = {**table, "rope_theta": values.get("rope_theta", 1_000_000.0)}
        local: Values = {"rope_theta": values.get("rope_local_base_freq", 10_000.0)}
    else:
        full, local = table["full_attention"], table["sliding_attention"]
    kind = _kind(full)
    if kind not in ("default", "linear"):
        raise AloeError(f"{where}: rope_type of full attention is {kind!r}; supported: default, linear")
    # The models of MaxText's that have either scale, which goes by the name there.
    names = {values["hidden_size"] // values["num_attention_heads"]: "gemma3-27b", values["head_dim"]: "gemma3-4b"}
    scalar = values.get("query_pre_attn_scalar", values["head_dim"])
    if scalar not in names:
        raise AloeError(f"{where}: query_pre_attn_scalar is {scalar}; MaxText has only {' and '.join(map(str, names))}")
    if values.get("attn_logit_softcapping") or values.get("final_logit_softcapping"):
        raise AloeError(f"{where}: logits are capped, which no published Gemma 3 has; supported: null")
    return {
        "model_name": names[scalar],
        "sliding_window_size": _pattern(values, where, 6),
        "rope_max_timescale": int(full["rope_theta"]),
        "local_rope_max_timescale": int(local["rope_theta"]),
        "rope_linear_scaling_factor": float(full.get("factor", 1.0)),
    }


def _gemma3_out(config: Config) -> dict[str, JSON]:
    full: dict[str, JSON] = {"rope_type": "default", "rope_theta": float(config.rope_max_timescale)}
    if config.rope_linear_scaling_factor != 1.0:
        full |= {"rope_type": "linear", "factor": config.rope_linear_scaling_factor}
    local = {"rope_type": "default", "rope_theta": float(config.local_rope_max_timescale)}
    return {
        **_layer_types(config, 6, config.num_decoder_layers),
        "rope_parameters": {"full_attention": full, "sliding_attention": local},
        "query_pre_attn_scalar": config.emb_dim // config.num_query_heads
        if config.model_name == "gemma3-27b"
        else config.head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    }


def _olmo3(values: Values, where: str) -> Settings:
    if values["num_hidden_layers"] % 4:
        raise AloeError(f"{where}: num_hidden_layers is {values['num_hidden_layers']}; MaxText has a multiple of 4")
    table = rope(values, where)
    if isinstance(table.get("full_attention"), Mapping):
        full, local = table["full_attention"], table["sliding_attention"]
    else:  # transformers 4: one table, of which windows take the plain part
        full, local = {**table, "rope_theta": table.get("rope_theta") or values.get("rope_theta", 500_000.0)}, {}
    if (
        local.get("rope_theta", full["rope_theta"]) != full["rope_theta"]
        or local.get("rope_type", "default") != "default"
    ):
        raise AloeError(f"{where}: rope_parameters of sliding_attention are not the plain ones of full_attention")
    kind = _kind(full)
    settings: Settings = {"sliding_window_size": _pattern(values, where, 4), "use_qk_norm": True}
    settings["rope_max_timescale"] = int(full["rope_theta"])
    if kind == "default":
        return settings | {"rope_type": "default"}
    if kind != "yarn":
        raise AloeError(f"{where}: rope_type is {kind!r}; supported: default, yarn")
    expected = 0.1 * math.log(full["factor"]) + 1.0
    if abs((full.get("attention_factor") or expected) - expected) > 1e-6:
        raise AloeError(f"{where}: attention_factor is {full['attention_factor']}; MaxText computes {expected:.6f}")
    return settings | {
        "rope_type": "yarn",
        "rope_interleave": False,
        "rope_attention_scaling": True,
        "rope_truncate": bool(full.get("truncate", True)),
        "rope_factor": float(full["factor"]),
        "beta_fast": float(full.get("beta_fast") or 32.0),
        "beta_slow": float(full.get("beta_slow") or 1.0),
        "original_max_position_embeddings": int(full["original_max_position_embeddings"]),
    }


def _olmo3_out(config: Config) -> dict[str, JSON]:
    plain: dict[str, JSON] = {"rope_type": "default", "rope_theta": float(config.rope_max_timescale)}
    full = plain
    if config.rope_type.lower().endswith("yarn"):
        full = {
            **plain,
            "rope_type": "yarn",
            "factor": config.rope_factor,
            "beta_fast": config.beta_fast,
            "beta_slow": config.beta_slow,
            "original_max_position_embeddings": config.original_max_position_embeddings,
            "truncate": config.rope_truncate,
        }
    return {
        **_layer_types(config, 4, config.num_decoder_layers),
        "rope_parameters": {"full_attention": full, "sliding_attention": plain},
        "attention_bias": False,
    }


LLAMA = attention(Layout(1, interleaved=True, scale="query_root"), Layout(1, interleaved=True))
FAMILIES: dict[str, MaxTextFamily] = {
    "llama": MaxTextFamily(
        "Llama", "LlamaForCausalLM", "llama3.1-8b", "llama2", {**NORMS, **LLAMA, **MLP},
        absent={"attention_bias": False, "mlp_bias": False}, reads=_llama, writes=_llama_out, required=(),
    ),
    "qwen2": MaxTextFamily(
        "Qwen 2.5", "Qwen2ForCausalLM", "qwen2.5-7b", "qwen2", {**NORMS, **attention(), **BIASES, **MLP},
        reads=_qwen2, writes=lambda config: {"use_sliding_window": False},
    ),
    "qwen3": MaxTextFamily(
        "Qwen 3", "Qwen3ForCausalLM", "qwen3-8b", "qwen3", {**NORMS, **attention(), **QK_NORMS, **MLP},
        absent={"attention_bias": False}, reads=_qwen3,
        writes=lambda config: {"use_sliding_window": False, "attention_bias": False},
    ),
    "qwen3_moe": MaxTextFamily(
        "Qwen 3 MoE", "Qwen3MoeForCausalLM", "qwen3-30b-a3b", "qwen3_moe",
        {**NORMS, **attention(), **QK_NORMS, **experts("moe_block", "mlp", ("gate_proj", "up_proj", "down_proj"))},
        absent={"attention_bias": False}, reads=_qwen3_moe, writes=_qwen3_moe_out,
    ),
    "mixtral": MaxTextFamily(
        "Mixtral", "MixtralForCausalLM", "mixtral-8x7b", "mixtral",
        {**NORMS, **attention(FOLDED), **experts("MoeBlock_0", "block_sparse_moe", ("w1", "w3", "w2"))},
        reads=_mixtral, writes=_mixtral_out, theta=1_000_000.0,
    ),
    "gemma2": MaxTextFamily(
        "Gemma 2", "Gemma2ForCausalLM", "gemma2-2b", "gemma2", {**gemma_norms(), **attention(FOLDED), **MLP}, GEMMA_TOP,
        absent={"attention_bias": False, "hidden_activation": "gelu_pytorch_tanh"}, reads=_gemma2, writes=_gemma2_out,
        scaled_embedding=True, query_scale=True,
    ),
    "gemma3_text": MaxTextFamily(
        "Gemma 3", "Gemma3ForCausalLM", "gemma3-4b", "gemma3",
        {**gemma_norms(), **attention(),
         **{name: (theirs, Layout(plus=1.0)) for name, (theirs, _) in QK_NORMS.items()}, **MLP}, GEMMA_TOP,
        absent={"attention_bias": False, "hidden_activation": "gelu_pytorch_tanh"}, reads=_gemma3, writes=_gemma3_out,
        theta=1_000_000.0, scaled_embedding=True,
    ),
    "olmo3": MaxTextFamily(
        "OLMo 3", "Olmo3ForCausalLM", "olmo3-7b", "olmo3",
        {"post_self_attention_layer_norm.scale": (LAYER + "post_attention_layernorm.weight", SAME),
         "post_mlp_layer_norm.scale": (LAYER + "post_feedforward_layernorm.weight", SAME),
         **attention(module="attention"), **MLP,
         **{name.replace("self_attention", "attention"): value for name, value in QK_NORMS.items()}},
        absent={"attention_bias": False}, reads=_olmo3, writes=_olmo3_out, theta=500_000.0,
    ),
}  # fmt: skip
