"""Random edits of config.json: what is read is what transformers makes of the same file, or it is refused."""

import copy
import json
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aloe_jax.errors import AloeError
from aloe_jax.models.native.decoder import DecoderSpec
from aloe_jax.models.native.families import FAMILIES
from tests.fuzz.harness import one_line

BASE = {
    "vocab_size": 100,
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
# Families whose absent number of key/value heads is that of a published model.
SHARED = {kind: {"num_key_value_heads": 2} for kind in ("mistral", "qwen2", "qwen3")}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
ROPES = [
    None,
    {},
    {"rope_type": "default"},
    {"type": "default"},
    {"rope_type": "default", "rope_theta": 500.0},
    {"rope_theta": 700.0},
    LLAMA3,
    {**LLAMA3, "rope_theta": 900.0},
    {key: value for key, value in LLAMA3.items() if key != "original_max_position_embeddings"},
    {"rope_type": "linear", "factor": 4.0},
    {"type": "linear", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    {"rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [2.0, 2.0]},
    {"rope_type": "default", "partial_rotary_factor": 0.5},
    {"full_attention": {"rope_type": "default", "rope_theta": 10.0}, "sliding_attention": {"rope_theta": 20.0}},
]
SIZES = st.sampled_from([None, 1, 2, 4, 8])
LAYERS = ["full_attention", "sliding_attention"]
EDITS = {
    "rope_scaling": st.sampled_from(ROPES),
    "rope_parameters": st.sampled_from(ROPES),
    "rope_theta": st.sampled_from([100.0, 10_000, 1e6]),
    "original_max_position_embeddings": st.sampled_from([16, 32]),
    "partial_rotary_factor": st.sampled_from([None, 0.5, 1.0]),
    "attention_bias": st.booleans(),
    "mlp_bias": st.booleans(),
    "tie_word_embeddings": st.booleans(),
    "hidden_act": st.sampled_from(["silu", "gelu", "swish"]),
    "rms_norm_eps": st.sampled_from([1e-6, 1e-5, 0.1]),
    "num_key_value_heads": SIZES,
    "head_dim": SIZES,
    "sliding_window": st.sampled_from([None, 1, 8, 4096]),
    "use_sliding_window": st.booleans(),
    "max_window_layers": st.sampled_from([0, 1, 2, 28]),
    "layer_types": st.sampled_from([None, LAYERS, LAYERS[::-1], LAYERS[:1] * 2, LAYERS[1:] * 2, ["full_attention"]]),
    "clip_qkv": st.sampled_from([None, 0.5, 3]),
    "bos_token_id": st.sampled_from([None, 3]),
    "pad_token_id": st.sampled_from([None, 3]),
    "eos_token_id": st.sampled_from([None, 3, [4, 5]]),
    "logit_scale": st.sampled_from([None, 1.0, 0.5]),
    "attention_multiplier": st.sampled_from([None, 0.1]),
    "final_logit_softcapping": st.sampled_from([None, 30.0]),
    "quantization_config": st.sampled_from([None, {"bits": 4}]),
    "per_layer_config": st.sampled_from([None, {"0": {"num_key_value_heads": 1}}]),
}


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("transformers").setLevel(logging.CRITICAL)


def expected(values):
    """What transformers makes of the settings that a model's arithmetic here depends on; None: it refuses them."""
    from transformers import AutoConfig

    values = copy.deepcopy(values)
    try:
        made = AutoConfig.for_model(values.pop("model_type"), **values)
    except Exception:
        return None
    rope = made.rope_parameters
    llama3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    family, layers = made.model_type, made.num_hidden_layers
    types = getattr(made, "layer_types", None) if family in ("qwen2", "qwen3") else None
    window = made.sliding_window if family in ("mistral", "qwen2", "qwen3") else None
    windows = tuple(window or 0 for _ in range(layers))
    if types is not None:
        windows = tuple((window or 0) if kind == "sliding_attention" else 0 for kind in types)
    eos = made.eos_token_id if isinstance(made.eos_token_id, list) else [made.eos_token_id]
    biases = {"query", "key", "value"} if family == "qwen2" else set()
    if getattr(made, "attention_bias", False) and family not in ("mistral", "qwen2"):
        biases = {"query", "key", "value", "output"}
    if family == "llama" and made.mlp_bias:
        biases |= {"gate", "up", "down"}
    return {
        "rope_type": rope.get("rope_type"),
        "rope_theta": rope.get("rope_theta"),
        "partial": rope.get("partial_rotary_factor", 1.0) or 1.0,
        "rope_scaling": tuple(rope[key] for key in llama3) if rope.get("rope_type") == "llama3" else None,
        "tie": made.tie_word_embeddings,
        "kv_heads": made.num_key_value_heads,
        "head_size": getattr(made, "head_dim", None) or made.hidden_size // made.num_attention_heads,
        "norm_eps": 1e-5 if family == "olmo" else made.rms_norm_eps,
        "act": made.hidden_act,
        "windows": windows if any(windows) else (),
        "biases": biases,
        "clip": made.clip_qkv if family == "olmo" else None,
        "bos": made.bos_token_id,
        "pad": made.pad_token_id,
        "eos": tuple(one for one in eos if one is not None),
    }


def found(spec):
    """The same of what we read."""
    return {
        "rope_type": "default" if spec.rope_scaling is None else "llama3",
        "rope_theta": spec.rope_theta,
        "partial": 1.0,
        "rope_scaling": spec.rope_scaling,
        "tie": spec.tie_embeddings,
        "kv_heads": spec.kv_heads,
        "head_size": spec.head_size,
        "norm_eps": spec.norm_eps,
        "windows": spec.windows,
        "biases": set(spec.biases),
        "clip": spec.clip_qkv,
        "bos": spec.bos_id,
        "pad": spec.pad_id,
        "eos": spec.eos_ids,
    }


def same_or_refused(values):
    """Whether it was read; AssertionError where something else was read than transformers reads."""
    try:
        spec = DecoderSpec.from_huggingface(json.loads(json.dumps(values)))
    except AloeError as error:
        one_line(error)
        return False
    theirs = expected(values)
    if theirs is not None:
        assert theirs.pop("act") in ("silu", "swish"), values
        assert found(spec) == theirs, values
    again = DecoderSpec.from_huggingface(spec.to_huggingface())
    assert again == spec
    return True


@st.composite
def configs(draw):
    kind = draw(st.sampled_from(sorted(FAMILIES)))
    keys = draw(st.lists(st.sampled_from(sorted(EDITS)), max_size=5, unique=True))
    return {"model_type": kind, **BASE, **SHARED.get(kind, {}), **{key: draw(EDITS[key]) for key in keys}}


@settings(max_examples=400, derandomize=True, suppress_health_check=list(HealthCheck))
@given(configs())
def test_what_is_read_is_what_transformers_reads(values):
    same_or_refused(values)


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_every_single_edit_of_every_family(kind):
    """Each field alone, over all of its values; and RoPE's two tables in all pairs."""
    edits = {key: strategy.elements for key, strategy in EDITS.items() if hasattr(strategy, "elements")}
    edits |= {key: (False, True) for key in ("attention_bias", "mlp_bias", "tie_word_embeddings", "use_sliding_window")}
    assert edits.keys() == EDITS.keys()
    base = {"model_type": kind, **BASE, **SHARED.get(kind, {})}
    read = [same_or_refused({**base, key: value}) for key in edits for value in edits[key]]
    assert sum(read) > 0.5 * len(read)  # not everything is refused
    pairs = [
        {"rope_scaling": one, "rope_parameters": other, **more}
        for one in ROPES
        for other in ROPES
        for more in (
            {},
            {"rope_theta": 123.0},
            {"original_max_position_embeddings": 16},
            {"partial_rotary_factor": 0.5},
        )
    ]
    read = [same_or_refused({**base, **pair}) for pair in pairs]
    assert sum(read) > 0.1 * len(read)


def test_rope_scaling_beside_rope_parameters():
    """As model cards ask for, to read longer texts."""
    values = {"model_type": "llama", **BASE, "rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}
    with pytest.raises(AloeError, match="rope_type is 'linear'; supported: default, llama3"):
        DecoderSpec.from_huggingface({**values, "rope_scaling": {"rope_type": "linear", "factor": 4.0}})
    spec = DecoderSpec.from_huggingface({**values, "rope_scaling": LLAMA3})
    assert spec.rope_scaling == (8.0, 1.0, 4.0, 32)
    assert spec.rope_theta == 10_000.0  # the other table is not looked at


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'; expected true or false"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; expected at most 10,000"),
        ({"vocab_size": True}, "vocab_size is True; expected a positive whole number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan; expected a positive number"),
        ({"rope_theta": 10**400}, "rope_theta is 1000+…; expected a positive number"),
        ({"rope_scaling": ["linear", 4]}, r"rope_scaling is \['linear', 4\]; expected null or a table"),
        ({"rope_scaling": {**LLAMA3, "factor": "8"}}, "factor is '8', expected a number"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": 4}}, "both 4; they must differ"),
        ({"eos_token_id": ["<end>"]}, "eos_token_id is '<end>'; expected the number of a token"),
        ({"num_attention_heads": 32}, "head_size must be even for rotary positions, not 0"),
        ({"head_dim": 3}, "head_size must be even for rotary positions, not 3"),
        ({"model_type": ["llama"]}, r"model_type is \['llama'\]; supported"),
        ({"model_type": "qwen2", "layer_types": 7}, "layer_types is 7; expected null or a list"),
        ({"residual_multiplier": 0.3}, "residual_multiplier is 0.3; supported: none, 1.0"),
    ],
)
def test_values_of_the_wrong_kind_are_named(change, message):
    with pytest.raises(AloeError, match=message) as raised:
        DecoderSpec.from_huggingface({"model_type": "llama", **BASE, **change}, "here.json")
    assert one_line(raised.value).startswith("here.json: ")
