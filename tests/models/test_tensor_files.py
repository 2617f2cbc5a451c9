"""Which files of a model directory are read, and what is said of damaged ones."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from aloe_jax.errors import AloeError
from aloe_jax.models.huggingface import save_pretrained
from aloe_jax.models.opening import load_pretrained
from aloe_jax.models.tensor_files import EMBEDDING, HEAD, INDEX, SINGLE
from aloe_jax.storage import integrity

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def tied(tmp_path):
    return Path(shutil.copytree(GOLDEN / "llama_tied", tmp_path / "tied"))


def store_head(directory, change):
    tensors = load_file(directory / SINGLE)
    tensors[HEAD] = np.ascontiguousarray(change(tensors[EMBEDDING]))
    save_file(tensors, directory / SINGLE, metadata={"format": "pt"})
    return tensors


def one_value(embedding):
    head = embedding.copy()
    head[-1, -1] += 1.0
    return head


@pytest.mark.parametrize("change", [lambda embedding: -embedding, one_value, np.zeros_like])
def test_a_head_that_left_its_embedding_is_computed_with_and_written_again(tmp_path, tied, change, capsys):
    tensors = store_head(tied, change)
    model = load_pretrained(tied)
    assert "ties the head to the embedding, but the weights have another head; it is used" in capsys.readouterr().err
    assert not model.spec.tie_embeddings
    tokens = np.array([[3, 17, 40]], np.int32)
    expected = np.asarray(model.hidden(tokens)) @ tensors[HEAD].T
    np.testing.assert_allclose(model(tokens), expected, atol=1e-5)
    save_pretrained(model, tmp_path / "out")
    written = load_file(tmp_path / "out" / SINGLE)
    assert written.keys() == tensors.keys()
    assert all((written[key] == tensors[key]).all() for key in tensors)
    assert not json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"]
    assert load_pretrained(tmp_path / "out").spec == model.spec


@pytest.mark.parametrize("change", [lambda embedding: embedding, lambda embedding: embedding.astype(np.float64)])
def test_a_copy_of_the_embedding_is_no_other_head(tied, change, capsys):
    store_head(tied, change)
    assert load_pretrained(tied).spec == load_pretrained(GOLDEN / "llama_tied").spec
    assert not capsys.readouterr().err


def test_a_head_of_another_shape_is_no_copy(tied):
    store_head(tied, lambda embedding: embedding[:-1])
    with pytest.raises(AloeError, match=r"tensor lm_head\.weight is \[79, 32\], config\.json makes it \[80, 32\]"):
        load_pretrained(tied)


def test_a_head_and_an_embedding_that_are_single_numbers_are_refused(tied):
    tensors = load_file(tied / SINGLE) | {HEAD: np.array(1, np.float32), EMBEDDING: np.array(2, np.float32)}
    save_file(tensors, tied / SINGLE, metadata={"format": "pt"})
    with pytest.raises(AloeError, match=r"tensor model\.embed_tokens\.weight is \[\], config\.json makes it"):
        load_pretrained(tied)


def index(directory, places, **more):
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places, **more}))


def test_an_index_whose_shards_are_gone_is_not_read_beside_a_whole_file(tied, capsys):
    keys = load_file(tied / SINGLE)
    index(tied, {key: f"model-0000{1 + n % 2}-of-00002.safetensors" for n, key in enumerate(keys)})
    assert load_pretrained(tied).spec.tie_embeddings
    assert not capsys.readouterr().err


def test_with_shards_and_a_single_file_the_single_one_is_read_and_that_is_said(tmp_path, tied, capsys):
    save_pretrained(load_pretrained(tied), tmp_path / "out", max_shard_size="30KB")
    (tmp_path / "out" / "digests.json").unlink()
    tensors = {key: np.zeros_like(tensor) for key, tensor in load_file(tied / SINGLE).items()}
    save_file(tensors, tmp_path / "out" / SINGLE)
    assert not np.asarray(load_pretrained(tmp_path / "out").embedding[...]).any()
    assert "model.safetensors beside the shards" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../secret.safetensors", r"'\.\./secret\.safetensors'"),
        ("/etc/passwd", "'/etc/passwd'"),
        ("sub/model.safetensors", "'sub/model.safetensors'"),
        ("model.bin", "'model.bin'"),
        ("..", r"'\.\.'"),
        (7, "7"),
        (None, "None"),
    ],
)
def test_an_index_reads_only_files_beside_it(tmp_path, tied, name, said):
    shutil.copy(tied / SINGLE, tmp_path / "secret.safetensors")
    (tied / SINGLE).unlink()
    index(tied, {EMBEDDING: name})
    message = rf"index\.json: says that tensor '{EMBEDDING}' is in {said}; expected a \.safetensors file beside it"
    with pytest.raises(AloeError, match=message):
        load_pretrained(tied)


def header(directory, change):
    """Rewrite the header of the weights, their bytes left as they are."""
    data = (directory / SINGLE).read_bytes()
    length = int.from_bytes(data[:8], "little")
    values = json.loads(data[8 : 8 + length])
    change(values)
    made = json.dumps(values).encode()
    (directory / SINGLE).write_bytes(len(made).to_bytes(8, "little") + made + data[8 + length :])


def set_offsets(first, last):
    return lambda directory: header(directory, lambda h: h[EMBEDDING].update(data_offsets=[first, last]))


@pytest.mark.parametrize(
    "spoil",
    [
        set_offsets(-8, 10_232),
        set_offsets(0, 1 << 62),
        set_offsets(4, 10_244),
        lambda d: header(d, lambda h: h[EMBEDDING].update(dtype="F64")),
        lambda d: header(d, lambda h: h[EMBEDDING].update(shape=[1 << 62, 1 << 62])),
        lambda d: header(d, lambda h: h.update({EMBEDDING: []})),
        lambda d: (d / SINGLE).write_bytes(((1 << 63) - 1).to_bytes(8, "little") + b"{}"),
        lambda d: (d / SINGLE).write_bytes((1 << 40).to_bytes(8, "little") + b"{" * 100),
        lambda d: (d / SINGLE).write_bytes(b"[" * 50_000),
        lambda d: (d / SINGLE).write_bytes(b""),
    ],
)
def test_a_header_that_does_not_fit_its_file(tied, spoil):
    spoil(tied)
    with pytest.raises(AloeError, match=r"model\.safetensors: not a whole safetensors file \(.*\); copy it again") as e:
        load_pretrained(tied)
    assert "\n" not in str(e.value)


def flip(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("shard", ["5GB", "30KB"])
def test_one_flipped_bit_of_an_export_is_found_and_its_file_named(tmp_path, tied, shard):
    out = tmp_path / "out"
    save_pretrained(load_pretrained(tied), out, max_shard_size=shard)
    assert integrity.damage(out) is None
    assert integrity.recorded(out)[1].keys() == {file.name for file in out.iterdir()} - {integrity.DIGESTS}
    file = sorted(out.glob("*.safetensors"))[-1]
    flip(file, -1)
    with pytest.raises(
        AloeError, match=rf"{file.name} is not as it was written \(its checksum differs\): export or copy"
    ):
        load_pretrained(out)
    (out / integrity.DIGESTS).unlink()  # as the message says, for whoever has changed them on purpose
    load_pretrained(out)


def test_an_export_made_of_links_is_compared_too(tmp_path, tied):
    """As caches of downloaded models are."""
    save_pretrained(load_pretrained(tied), tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for file in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    load_pretrained(tmp_path / "snapshot")
    flip(tmp_path / "blobs" / SINGLE, -1)
    with pytest.raises(AloeError, match=r"snapshot/model\.safetensors is not as it was written"):
        load_pretrained(tmp_path / "snapshot")


def test_texts_of_an_export_may_be_edited_and_its_weights_replaced_by_others(tmp_path, tied):
    out = tmp_path / "out"
    save_pretrained(load_pretrained(tied), out)
    for name in ("README.md", "config.json"):
        (out / name).write_text((out / name).read_text() + "\n")
    load_pretrained(out)
    store_head(out, lambda embedding: -embedding)
    assert not load_pretrained(out).spec.tie_embeddings
    (out / integrity.DIGESTS).write_text("{")
    with pytest.raises(AloeError, match=r"digests\.json: cannot be read .*; delete it, or copy it again"):
        load_pretrained(out)
