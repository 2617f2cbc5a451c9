"""Model directories: each file of one damaged by bytes or by values. Loaded, or refused in one line."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from aloe_jax.data.tokenizer import load_tokenizer, train_tokenizer
from aloe_jax.errors import AloeError
from aloe_jax.models.huggingface import save_pretrained
from aloe_jax.models.opening import is_huggingface, load_pretrained
from aloe_jax.models.spec import check_vocabulary
from aloe_jax.models.tensor_files import INDEX, SINGLE
from tests.fuzz.harness import fuzz, one_line
from tests.models.test_values import BASE, EDITS
from tests.random_models import random_decoder

pytestmark = pytest.mark.soak
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
GENERATION = ("generation_config.json",)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole directory with a tokenizer, and one in shards."""
    from aloe_jax.models.native.decoder import DecoderSpec

    root = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer(["some words to learn from"], 270, root / "tokenizer")
    spec = DecoderSpec(
        vocab=len(tokenizer), layers=2, width=8, query_heads=2, kv_heads=1, head_size=4, feed_forward=8, max_length=64,
        eos_ids=(1,), tie_embeddings=True,
    )  # fmt: skip
    model = random_decoder(spec, 0.2, seed=0)
    save_pretrained(model, root / "single", tokenizer=tokenizer)
    save_pretrained(model, root / "shards", tokenizer=tokenizer, max_shard_size="4KB")
    for name in ("single", "shards"):
        (root / name / "digests.json").unlink()  # it would find every damage first
    return root


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 300),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(-2, 300), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
    st.sampled_from(["../model.safetensors", "/etc/passwd", "model.safetensors", "\x00", "F64", "I8", [0, 2**62]]),
)
KEYS = st.one_of(st.sampled_from([*BASE, *EDITS, "model_type", "dtype", "architectures"]), st.text(max_size=6))
# Where in a JSON file (each number chooses a key or an entry on the way down) and what is put there.
VALUE = st.tuples(st.lists(st.integers(0, 40), min_size=1, max_size=4), ODD)
BYTES = st.lists(st.tuples(st.integers(0, 2**24), st.integers(0, 255)), min_size=1, max_size=4)
DAMAGE = st.one_of(
    st.tuples(st.just("config"), st.lists(st.tuples(KEYS, ODD), min_size=1, max_size=3)),
    st.tuples(st.just("known"), st.sampled_from(sorted(EDITS)).flatmap(lambda k: st.tuples(st.just(k), EDITS[k]))),
    st.tuples(st.sampled_from(["config.json", INDEX, *TOKENIZER, *GENERATION]), VALUE),
    st.tuples(st.just("header"), VALUE),
    st.tuples(st.just("length"), st.integers(0, 2**64 - 1)),
    st.tuples(
        st.just("bytes"), st.tuples(st.sampled_from(["config.json", SINGLE, INDEX, *TOKENIZER, *GENERATION]), BYTES)
    ),
    st.tuples(
        st.just("cut"), st.tuples(st.sampled_from(["config.json", SINGLE, INDEX, *TOKENIZER]), st.integers(0, 2**24))
    ),
)


def put(values, path, value):
    """Put a value somewhere into parsed JSON."""
    at = values
    for number in path[:-1]:
        inner = at[sorted(at)[number % len(at)]] if isinstance(at, dict) and at else at
        inner = at[number % len(at)] if isinstance(at, list) and at else inner
        if not isinstance(inner, dict | list):
            break
        at = inner
    if isinstance(at, dict):
        at[sorted(at)[path[-1] % len(at)] if at else "x"] = value
    else:
        at.append(value)


def edit(file, change):
    if file.is_file():
        values = json.loads(file.read_text())
        change(values)
        file.write_text(json.dumps(values))


def spoil(directory, damage):
    kind, what = damage
    if kind == "config":
        edit(directory / "config.json", lambda values: values.update(what))
    elif kind == "known":
        edit(directory / "config.json", lambda values: values.update([what]))
    elif kind.endswith(".json"):
        edit(directory / kind, lambda values: put(values, *what))
    elif kind in ("header", "length"):
        file = min(directory.glob("*.safetensors"))
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        if kind == "length":
            file.write_bytes(what.to_bytes(8, "little") + data[8:])
            return
        values = json.loads(data[8 : 8 + length])
        put(values, *what)
        made = json.dumps(values).encode()
        file.write_bytes(len(made).to_bytes(8, "little") + made + data[8 + length :])
    else:
        name, how = what
        file = directory / name
        if not file.is_file():
            return
        data = bytearray(file.read_bytes())
        if kind == "cut":
            del data[how % (len(data) + 1) :]
        else:
            for at, value in how:
                data[at % len(data)] = value
        file.write_bytes(data)


def test_a_damaged_model_directory_is_read_or_refused_in_one_line(whole, capsys):
    tokens = np.array([[3, 5, 260]], np.int32)
    accepted, refused, read = 0, set(), {}

    def check(given):
        nonlocal accepted
        name, damages = given
        with tempfile.TemporaryDirectory() as temporary:
            directory = Path(temporary) / "model"
            shutil.copytree(whole / name, directory)
            try:
                for damage in damages:
                    spoil(directory, damage)
            except (ValueError, UnicodeDecodeError):  # an earlier damage has left no JSON to edit
                return
            try:
                assert is_huggingface(directory)
                tokenizer = load_tokenizer(directory)
                model = load_pretrained(directory)
                check_vocabulary(tokenizer, model.spec, "model")
            except AloeError as error:
                refused.add(one_line(error).replace(str(directory), "")[:40])
                return
            accepted += 1
            read[model.spec] = model

    tried = fuzz(st.tuples(st.sampled_from(["single", "shards"]), st.lists(DAMAGE, min_size=1, max_size=2)), check)
    assert tried > 100
    assert accepted > 0.02 * tried
    assert len(refused) > 10  # for many reasons
    for spec in list(read)[-3:]:  # what was read computes, too
        assert np.isfinite(np.asarray(read[spec](tokens % spec.vocab))).all()
    with capsys.disabled():
        print(f"\n{tried:,} model directories, {accepted:,} read, refused for {len(refused)} reasons")
