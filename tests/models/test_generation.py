"""generation_config.json: what is read of it, and what a damaged one says."""

import json

import pytest

from aloe_jax.data.tokenizer import generation_stops
from aloe_jax.errors import AloeError
from aloe_jax.models import generation
from aloe_jax.models.native.decoder import DecoderSpec

SPEC = DecoderSpec(
    vocab=100, layers=1, width=8, query_heads=2, kv_heads=1, head_size=4, feed_forward=8, max_length=64, eos_ids=(2,)
)


def put(directory, text):
    (directory / generation.FILE).write_text(text)


@pytest.mark.parametrize(
    ("ids", "expected"), [(7, (2, 7)), ([7, 2, 8], (2, 7, 8)), (None, (2,)), (-1, (2,)), ([], (2,))]
)
def test_ids_that_end_a_reply_are_joined(tmp_path, ids, expected):
    put(tmp_path, json.dumps({"eos_token_id": ids, "pad_token_id": 5}))
    spec = generation.with_settings(SPEC, generation.read(tmp_path))
    assert (spec.eos_ids, spec.pad_id) == (expected, 5)


def test_ids_beyond_the_vocabulary_end_nothing():
    assert SPEC.ending((100, 99)).eos_ids == (2, 99)
    assert SPEC.ending((2,)) is SPEC


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[1]", "expected a JSON object, found list"),
        ('{"eos_token_id": "<end>"}', "eos_token_id is '<end>'; expected the number of a token, or null"),
        ('{"eos_token_id": [1.5]}', "eos_token_id is 1.5"),
        ('{"eos_token_id": true}', "eos_token_id is True"),
        ('{"pad_token_id": {}}', "pad_token_id is {}"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, message):
    put(tmp_path, text)
    with pytest.raises(AloeError, match=message) as raised:
        generation.read(tmp_path)
    assert str(tmp_path / generation.FILE) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_settings_of_sampling_are_kept_and_notes_of_the_tool_that_wrote_them_are_not():
    source = {"temperature": 0.6, "eos_token_id": 3, "bos_token_id": 1, "_from_model_config": True}
    written = generation.merged(SPEC, source)
    assert written == {"temperature": 0.6, "eos_token_id": [2, 3], "bos_token_id": 1}


@pytest.mark.parametrize("text", ['{"eos_token_id": "<end>"}', '{"eos_token_id": [true]}', "[]", "[" * 100_000])
def test_a_tokenizer_directory_says_the_same(tmp_path, text):
    put(tmp_path, text)
    with pytest.raises(AloeError, match=r"generation_config\.json: "):
        generation_stops(tmp_path)


def test_a_tokenizer_directory_without_ids(tmp_path):
    assert generation_stops(tmp_path) == ()
    put(tmp_path, '{"eos_token_id": [4, -1]}')
    assert generation_stops(tmp_path) == (4,)
