import pytest

from aloe_jax.errors import AloeError
from aloe_jax.models.native.decoder import DecoderSpec
from aloe_jax.models.settings import ArchitectureSettings, ModelSettings
from aloe_jax.models.spec import TokenizerIds

SPEC = DecoderSpec(
    vocab=100, layers=2, width=16, query_heads=4, kv_heads=2, head_size=4, feed_forward=24, max_length=64,
    rope_theta=5e5, norm_eps=1e-6, bos_id=1, eos_ids=(2, 5), rope_scaling=(8.0, 1.0, 4.0, 32.0),
)  # fmt: skip


def test_config_json_round_trip():
    assert DecoderSpec.from_huggingface(SPEC.to_huggingface()) == SPEC


def test_reads_the_rope_of_transformers_4():
    values = SPEC.to_huggingface()
    del values["rope_parameters"]
    assert DecoderSpec.from_huggingface(values) == SPEC


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "mixtral"},
            "here.json: model_type is 'mixtral'; supported: llama, mistral, qwen2, qwen3",
        ),
        ({"hidden_act": "gelu"}, "here.json: hidden_act is 'gelu'; supported: 'silu', 'swish'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}; supported: none"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'; supported: default, llama3"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "rope_parameters differ between layers"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "the key factor is missing"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window is 0; supported: null or a positive number"),
        ({"model_type": "qwen2", "layer_types": ["full_attention"]}, "layer_types has 1 entries for 2 layers"),
        ({"model_type": "qwen2", "layer_types": ["linear_attention"] * 2}, "layer_types has 'linear_attention'"),
        ({"model_type": "qwen3", "layer_types": ["sliding_attention"] * 2}, "sliding_window gives it no size"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers is 'two'; expected a positive whole number"),
        ({"rms_norm_eps": "small"}, "a setting is of the wrong kind"),
        ({"num_key_value_heads": 3}, "4 query heads cannot share 3"),
    ],
)
def test_refuses_other_arithmetic(change, message):
    with pytest.raises(AloeError, match=message.replace("(", r"\(")):
        DecoderSpec.from_huggingface({**SPEC.to_huggingface(), **change}, "here.json")


def test_names_a_missing_key():
    values = SPEC.to_huggingface()
    del values["hidden_size"]
    with pytest.raises(AloeError, match="hidden_size is missing"):
        DecoderSpec.from_huggingface(values)


def test_architecture_must_divide():
    with pytest.raises(AloeError, match="width 30 is not a multiple of query_heads 4"):
        DecoderSpec.from_scratch(ModelSettings(architecture=ArchitectureSettings(width=30)), TokenizerIds(vocab=10))


def test_flops_count_every_product():
    dense = DecoderSpec(
        vocab=7, layers=1, width=4, query_heads=2, kv_heads=1, head_size=2, feed_forward=3, max_length=8
    )
    per_token = 4 * 4 + 2 * 4 * 2 + 4 * 4 + 3 * 4 * 3 + 4 * 7  # query, key and value, output, feed-forward, head
    assert dense.forward_flops(5, 15) == 2 * 5 * per_token + 4 * 15 * 4
