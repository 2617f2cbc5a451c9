"""Values of a config.json, checked one by one: of the right kind, finite, and of a size that a model can have."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any  # noqa: TID251  what a file of another program says

from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from aloe_jax.settings import shown

Values = Mapping[str, Any]  # of a config.json: of any kind until the functions below have looked at them
Fields = dict[str, Any]  # made of them, for the constructor of a shape

MOST_LAYERS = 10_000
MOST = 2**31 - 1  # of any other size
SIZES = (
    "vocab_size",
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
OPTIONAL_SIZES = ("num_key_value_heads", "head_dim")  # null: they follow from the others
FLAGS = ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window")
NUMBERS = ("rms_norm_eps", "rope_theta")
TABLES = ("rope_parameters", "rope_scaling")
# Arithmetic of other families: the setting, and the values that mean it is not used. transformers ignores some of
# them in a model_type that has no such arithmetic; a file that sets them is not of the model it says.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "quantization_config": (None,),
    "per_layer_config": (None, {}),
    "logit_scale": (None, 1.0),
    "logits_scaling": (None, 1.0),
    "embedding_multiplier": (None, 1.0),
    "residual_multiplier": (None, 1.0),
    "attention_multiplier": (None,),
}


def check(values: Values, where: str) -> None:
    """Raise AloeError naming `where` and the first setting that is missing, of another kind, or not to be computed."""
    for key in SIZES:
        if key not in values:
            raise AloeError(f"{where}: the key {key} is missing")
        size(values[key], key, where)
    for key in OPTIONAL_SIZES:
        if values.get(key) is not None:
            size(values[key], key, where)
    for key in FLAGS:
        if not isinstance(values.get(key, False), bool):
            raise AloeError(f"{where}: {key} is {shown(values[key])}; expected true or false")
    for key in NUMBERS:
        if values.get(key) is not None:
            number(values[key], key, where)
    for key in TABLES:
        if values.get(key) is not None and not isinstance(values[key], Mapping):
            raise AloeError(f"{where}: {key} is {shown(values[key])}; expected null or a table of settings")
    only(values, NEUTRAL, where)
    for key in ("bos_token_id", "pad_token_id"):
        token_id(values.get(key), key, where)
    token_ids(values.get("eos_token_id"), "eos_token_id", where)


def only(values: Values, neutral: Mapping[str, tuple[object, ...]], where: str) -> None:
    """Raise AloeError naming the first setting whose value is not one of those that can be computed."""
    for key, supported in neutral.items():
        if values.get(key, supported[0]) not in supported:
            raise AloeError(f"{where}: {key} is {shown(values[key])}; supported: {_listed(supported)}")


def size(value: object, key: str, where: str) -> int:
    """A positive whole number that is no larger than such a size can be."""
    most = MOST_LAYERS if key == "num_hidden_layers" else MOST
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise AloeError(f"{where}: {key} is {shown(value)}; expected a positive whole number")
    if value > most:
        raise AloeError(f"{where}: {key} is {shown(value)}; expected at most {most:,}")
    return value


def number(value: object, key: str, where: str) -> float:
    """A positive number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise AloeError(f"{where}: a setting is of the wrong kind ({key} is {shown(value)}, expected a number)")
    if not 0 < value <= sys.float_info.max:  # NaN is not
        raise AloeError(f"{where}: {key} is {shown(value)}; expected a positive number")
    return float(value)


def token_id(value: object, key: str, where: str) -> int | None:
    """The id of a token, or none. A negative one, as some old files have, is none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value > MOST:
        raise AloeError(f"{where}: {key} is {shown(value)}; expected the number of a token, or null")
    return value if value >= 0 else None


def token_ids(value: object, key: str = "eos_token_id", where: str = "config.json") -> tuple[int, ...]:
    """Token ids as config.json and generation_config.json write them: none, one or a list."""
    given = value if isinstance(value, list | tuple) else [value]
    found = [token_id(one, key, where) for one in given]
    return tuple(dict.fromkeys(one for one in found if one is not None))


def rope(values: Values, where: str) -> Values:
    """All of RoPE in one table: of transformers 5, which has rope_parameters, and of 4, which has rope_scaling.

    Where both are given, both versions go by rope_scaling. rope_theta beside them counts where the table has none.
    Raises AloeError where rope_scaling is given beside parameters of single layers.
    """
    scaling, parameters = values.get("rope_scaling") or {}, values.get("rope_parameters") or {}
    if scaling and any(isinstance(value, Mapping) for value in parameters.values()):
        raise AloeError(
            f"{where}: rope_parameters differ between layers, and rope_scaling is set beside them; leave one out"
        )
    return scaling or parameters


def stretched_rope(factor: float, low: float, high: float, original: float) -> dict[str, JSON]:
    """Llama 3.1's stretched RoPE as a config.json has it."""
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": int(original),
    }


def _listed(values: tuple[object, ...]) -> str:
    return ", ".join("none" if value is None else repr(value) for value in values)
