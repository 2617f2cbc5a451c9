"""config.json of the families of our decoder, read and written."""

from __future__ import annotations

from collections.abc import Mapping

from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from aloe_jax.models.native.families import FAMILIES, QKV
from aloe_jax.models.native.shape import DecoderShape
from aloe_jax.models.values import MOST, Fields, Values, check, number, only, rope, stretched_rope, token_id, token_ids
from aloe_jax.settings import shown

# What config.json says of arithmetic that this decoder has not: the setting and the values that mean it is not used.
ABSENT: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu", "swish"),
    "partial_rotary_factor": (None, 1.0),
    "final_logit_softcapping": (None,),
    "attn_logit_softcapping": (None,),
}


def read_config[S: DecoderShape](cls: type[S], values: Values, where: str) -> S:
    """The shape in the content of a config.json, of transformers 4 or 5.

    Raises AloeError naming `where` and the key when the model is of another family or uses arithmetic that
    this decoder does not have.
    """
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise AloeError(f"{where}: model_type is {shown(kind)}; supported: {', '.join(FAMILIES)}")
    only(values, ABSENT, where)
    values = {**FAMILIES[kind].reads, **values}
    check(values, where)
    table = rope(values, where)
    if table is not values.get("rope_parameters"):  # it must be one that could be computed, too
        _rope_scaling(values.get("rope_parameters") or {}, values, where)
    heads = values["num_attention_heads"]
    switches = _read_switches(kind, values, where)
    if switches.get("norm_eps") is None:
        switches["norm_eps"] = number(values.get("rms_norm_eps", 1e-6), "rms_norm_eps", where)
    fields: Fields = {
        "family": kind,
        "vocab": values["vocab_size"],
        "layers": values["num_hidden_layers"],
        "width": values["hidden_size"],
        "query_heads": heads,
        "kv_heads": values.get("num_key_value_heads") or heads,
        "head_size": values.get("head_dim") or values["hidden_size"] // heads,
        "feed_forward": values["intermediate_size"],
        "max_length": values["max_position_embeddings"],
        "rope_theta": number(table.get("rope_theta", values.get("rope_theta", 10_000.0)), "rope_theta", where),
        "rope_scaling": _rope_scaling(table, values, where),
        "tie_embeddings": values.get("tie_word_embeddings", False),
        "bos_id": token_id(values.get("bos_token_id"), "bos_token_id", where),
        "eos_ids": token_ids(values.get("eos_token_id"), "eos_token_id", where),
        "pad_id": token_id(values.get("pad_token_id"), "pad_token_id", where),
    }
    try:
        return cls(**fields, **switches)
    except AloeError as error:
        raise AloeError(f"{where}: {error}") from None


def write_config(shape: DecoderShape) -> dict[str, JSON]:
    """The content of a config.json that transformers 4 and 5 read as this shape."""
    rope: dict[str, JSON] = {"rope_type": "default"}
    if shape.rope_scaling is not None:
        rope = stretched_rope(*shape.rope_scaling)
    return {
        "architectures": [FAMILIES[shape.family].architecture],
        "model_type": shape.family,
        "vocab_size": shape.vocab,
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.width,
        "num_attention_heads": shape.query_heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "intermediate_size": shape.feed_forward,
        "max_position_embeddings": shape.max_length,
        "rope_theta": shape.rope_theta,
        "rope_scaling": rope if shape.rope_scaling is not None else None,
        "rope_parameters": {**rope, "rope_theta": shape.rope_theta},
        **({"rms_norm_eps": shape.norm_eps} if shape.norm == "rms" else {}),
        "tie_word_embeddings": shape.tie_embeddings,
        "bos_token_id": shape.bos_id,
        "eos_token_id": {0: None, 1: next(iter(shape.eos_ids), None)}.get(len(shape.eos_ids), list(shape.eos_ids)),
        "pad_token_id": shape.pad_id,
        "hidden_act": "silu",
        **_write_switches(shape),
    }


def _read_switches(family: str, values: Values, where: str) -> Fields:
    """The fields of DecoderShape, beyond sizes and RoPE, that a config.json of this family sets.

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


def _write_switches(shape: DecoderShape) -> dict[str, JSON]:
    """The settings that `_read_switches` reads back as this shape's."""
    reads = FAMILIES[shape.family].reads
    widest = max(shape.windows, default=0)
    settings: dict[str, JSON] = {
        "attention_bias": "output" in shape.biases,
        "mlp_bias": "gate" in shape.biases,
        "clip_qkv": shape.clip_qkv,
        "sliding_window": widest or None,
        "use_sliding_window": bool(widest),
        "layer_types": [
            "sliding_attention" if window else "full_attention" for window in shape.windows or (0,) * shape.layers
        ],
        # What transformers before layer_types goes by: the first layer from which on all have the window.
        "max_window_layers": next((at for at in range(shape.layers) if all(shape.windows[at:] or (0,))), shape.layers),
    }
    return {key: value for key, value in settings.items() if key in reads}


def _windows(given: Values, layers: int, where: str) -> tuple[int, ...]:
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


def _rope_scaling(table: Values, values: Values, where: str) -> tuple[float, float, float, float] | None:
    if any(isinstance(value, Mapping) for value in table.values()):
        raise AloeError(f"{where}: rope_parameters differ between layers; supported: the same in all")
    only(table, {"partial_rotary_factor": (1.0, None)}, where)
    kind = table.get("rope_type", table.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise AloeError(f"{where}: rope_type is {shown(kind)}; supported: default, llama3")
    for key in ("factor", "low_freq_factor", "high_freq_factor"):
        if key not in table:
            raise AloeError(f"{where}: the key {key} is missing from the settings of RoPE")
    factor, low, high = (number(table[key], key, where) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    if low == high:
        raise AloeError(f"{where}: low_freq_factor and high_freq_factor of RoPE are both {low:g}; they must differ")
    key = "original_max_position_embeddings"
    original = table.get(key, values["max_position_embeddings"])
    if values.get(key, original) != original:
        raise AloeError(
            f"{where}: {key} is {shown(values[key])}, and {shown(original)} in the settings of RoPE; leave one out"
        )
    return (factor, low, high, number(original, key, where))
