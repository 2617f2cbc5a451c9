"""config.json to MaxText's settings and back."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping

from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from aloe_jax.models.maxtext.families import FAMILIES, Config, MaxTextFamily, Settings, interleaved, stretch
from aloe_jax.models.maxtext.shape import MaxTextShape
from aloe_jax.models.values import Values, check, rope, token_id, token_ids
from aloe_jax.settings import shown

# What two models of one family and size must agree on to compute the same.
COMPUTED_ALIKE: tuple[Callable[[Config], object], ...] = (
    *(operator.attrgetter(name) for name in (
        "use_qk_norm", "attention_bias", "norm_topk_prob", "mlp_activations", "use_post_attn_norm", "use_post_ffw_norm",
        "sliding_window_size", "attn_logits_soft_cap", "final_logits_soft_cap", "rope_max_timescale",
        "local_rope_max_timescale", "rope_linear_scaling_factor", "logits_via_embedding",
    )),
    lambda config: config.logits_via_embedding and config.normalize_embedding_logits,
    lambda config: stretch(config) if interleaved(config) else (config.rope_type, config.rope_factor),
)  # fmt: skip


def read_config[S: MaxTextShape](cls: type[S], values: Values, where: str, overrides: Values) -> S:
    """The shape that a config.json describes, of transformers 4 or 5, with `overrides` of how it is computed.

    Raises AloeError naming `where` and the setting when the family is not one of families.py, or MaxText's arithmetic
    is another than it asks for.
    """
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise AloeError(
            f"{where}: model_type is {shown(kind)}; of these MaxText models are read: {', '.join(FAMILIES)}"
        )
    family = FAMILIES[kind]
    plain = {"partial_rotary_factor": 1.0} | ({} if "hidden_activation" in family.absent else {"hidden_act": "silu"})
    for key, only in {**plain, **family.absent}.items():
        if values.get(key, only) not in (only, None):
            raise AloeError(f"{where}: {key} is {shown(values[key])}; supported: {only!r}")
    check(values, where)
    for key in family.required:
        if key not in values:
            raise AloeError(f"{where}: the key {key} is missing")
    try:
        heads = values["num_attention_heads"]
        size = values.get("head_dim") or values["hidden_size"] // heads
        values = {**values, "head_dim": size}
        settings: Settings = {
            "vocab_size": values["vocab_size"],
            "base_emb_dim": values["hidden_size"],
            "base_mlp_dim": values["intermediate_size"],
            "base_num_decoder_layers": values["num_hidden_layers"],
            "base_num_query_heads": heads,
            "base_num_kv_heads": values.get("num_key_value_heads") or heads,
            "head_dim": size,
            "max_position_embeddings": values["max_position_embeddings"],
            "normalization_layer_epsilon": float(values.get("rms_norm_eps", 1e-6)),
            "rope_max_timescale": _theta(values, family, where),
            "logits_via_embedding": bool(values.get("tie_word_embeddings", family.scaled_embedding)),
            "normalize_embedding_logits": family.scaled_embedding,
        }
        settings |= family.reads(values, where)
    except KeyError as error:
        raise AloeError(f"{where}: the key {error.args[0]} is missing") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise AloeError(f"{where}: a setting is of the wrong kind ({error})") from None
    for key, value in overrides.items():
        if key in settings and settings[key] != value:
            raise AloeError(f"model.overrides.{key}: {value!r}, but {where} says {settings[key]!r}; leave it out")
    base = settings.pop("model_name", family.base)
    return cls(
        name=base,
        settings=tuple({**settings, **overrides}.items()),
        max_length=values["max_position_embeddings"],
        family=kind,
        query_scale=float(values["query_pre_attn_scalar"]) if values.get("query_pre_attn_scalar") else None,
        bos_id=token_id(values.get("bos_token_id"), "bos_token_id", where),
        eos_ids=token_ids(values.get("eos_token_id"), "eos_token_id", where),
        pad_id=token_id(values.get("pad_token_id"), "pad_token_id", where),
    )


def write_config(shape: MaxTextShape) -> dict[str, JSON]:
    """The content of a config.json that transformers 4 and 5 read as this model."""
    family, config = family_to_write(shape), shape.resolved
    theta = float(config.rope_max_timescale)
    own = family.writes(config)
    table = own.pop("rope_parameters", {"rope_type": "default"})
    assert isinstance(table, dict)
    if "full_attention" not in table:
        table = {**table, "rope_theta": theta}
    written = {
        "architectures": [family.architecture],
        "model_type": shape.family,
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.num_decoder_layers,
        "hidden_size": config.emb_dim,
        "num_attention_heads": config.num_query_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_dim,
        "max_position_embeddings": shape.max_length,
        "rope_theta": theta,
        "rope_parameters": table,
        "rms_norm_eps": config.normalization_layer_epsilon,
        "tie_word_embeddings": config.logits_via_embedding,
        "bos_token_id": shape.bos_id,
        "eos_token_id": {0: None, 1: next(iter(shape.eos_ids), None)}.get(len(shape.eos_ids), list(shape.eos_ids)),
        "pad_token_id": shape.pad_id,
        "hidden_act": "silu",
        **own,
    }
    if "hidden_activation" in own:
        written["hidden_act"] = own["hidden_activation"]
    if family.query_scale:
        written["query_pre_attn_scalar"] = shape.query_scale or config.head_dim
    return written


def family_to_write(shape: MaxTextShape) -> MaxTextFamily:
    """The family of a model that can be written. Raises AloeError for one that cannot."""
    if shape.family not in FAMILIES:
        raise AloeError(
            f"{shape.name}: this MaxText model has no Hugging Face form that was checked against transformers; "
            f"those of {', '.join(FAMILIES)} do"
        )
    return FAMILIES[shape.family]


def family_of(shape: MaxTextShape) -> str | None:
    """The `model_type` of a model by name, None where none is written or its settings are those of no such model."""
    block = str(shape.resolved.decoder_block.value)
    kind = next((kind for kind, family in FAMILIES.items() if family.block == block), None)
    if kind is None:
        return None
    made = dataclasses.replace(shape, family=kind)
    try:
        again = read_config(MaxTextShape, write_config(made), shape.name, {}).resolved
    except AloeError:
        return None
    return kind if all(part(again) == part(shape.resolved) for part in COMPUTED_ALIKE) else None


def _theta(values: Values, family: MaxTextFamily, where: str) -> int:
    table = rope(values, where)
    theta = table.get("rope_theta") or values.get("rope_theta", family.theta)
    if isinstance(table.get("full_attention"), Mapping):
        theta = table["full_attention"]["rope_theta"]
    if theta != int(theta):
        raise ValueError(f"rope_theta {theta}; MaxText takes a whole number")
    return int(theta)
