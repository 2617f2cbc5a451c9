"""Parity with transformers (through golden files), round trips, and what is said of broken directories."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from aloe_jax.errors import AloeError
from aloe_jax.models import huggingface
from aloe_jax.models.huggingface import save_pretrained
from aloe_jax.models.native import placement
from aloe_jax.models.opening import load_pretrained, tokenizer_directory
from aloe_jax.models.spec import check_vocabulary
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.sampling.sampler import Sampler

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(GOLDEN / "llama", tmp_path / "copy"))


@pytest.mark.parametrize("name", ["llama", "llama_tied"])
def test_logits_and_greedy_equal_transformers(name):
    model = load_pretrained(GOLDEN / name)
    golden = np.load(GOLDEN / name / "golden.npz")
    logits = nnx.jit(lambda model, tokens: model(tokens))(model, golden["tokens"][None])[0]
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-4)
    reply = Sampler(model).generate([golden["prompt"].tolist()], len(golden["greedy"]), stop=())
    assert reply == [golden["greedy"].tolist()]


@pytest.mark.parametrize("name", ["llama", "llama_tied"])
@pytest.mark.parametrize("shard", ["5GB", "10KB"])
def test_saving_what_was_loaded_changes_no_bit(tmp_path, name, shard):
    save_pretrained(load_pretrained(GOLDEN / name), tmp_path / "out", max_shard_size=shard)
    written = {}
    for file in (tmp_path / "out").glob("*.safetensors"):
        assert file.stat().st_size < 25_000 or shard == "5GB"
        written |= load_file(file)
    original = load_file(GOLDEN / name / "model.safetensors")
    assert written.keys() == original.keys()
    assert all((written[key] == original[key]).all() for key in original)
    assert load_pretrained(tmp_path / "out").spec == load_pretrained(GOLDEN / name).spec


def test_loading_onto_a_mesh(copy):
    mesh = make_mesh(MeshSettings(fsdp=4, tensor=2))
    spread, whole = load_pretrained(copy, mesh=mesh), load_pretrained(copy)
    assert spread.layers["down"][...].sharding.shard_shape((2, 56, 32)) == (2, 28, 8)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), *(jax.device_get(nnx.state(m)) for m in (spread, whole)))
    assert jax.tree.all(same)


def test_bfloat16_in_and_out(tmp_path, copy):
    save_pretrained(load_pretrained(copy, dtype="bfloat16"), tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"
    again = load_pretrained(tmp_path / "out", dtype="float32")
    exact = load_pretrained(copy).embedding[...]
    assert (again.embedding[...] == exact.astype(jnp.bfloat16).astype(jnp.float32)).all()


@pytest.mark.parametrize("stored", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_float_type_is_cast_on_the_way(copy, stored, dtype):
    change_tensors(copy, lambda t: t.update({key: tensor.astype(jnp.dtype(stored)) for key, tensor in t.items()}))
    tensors = load_file(copy / "model.safetensors")
    model = load_pretrained(copy, dtype=dtype)
    assert model.embedding[...].dtype == dtype
    assert (model.layers["up"][...][1] == tensors[KEY].T.astype(jnp.dtype(dtype))).all()
    change_tensors(copy, lambda t: t[KEY].__setitem__((0, 0), np.nan))
    with pytest.raises(AloeError, match=f"{KEY} holds NaN"):
        load_pretrained(copy)


def test_pieces_and_blocks_of_any_size_make_the_same_weights(copy, monkeypatch):
    whole = load_pretrained(copy)
    for name, size in (("PIECE", 100), ("ROWS", 7), ("COLUMNS", 5)):
        monkeypatch.setattr(placement, name, size)
    for mesh in (None, make_mesh(MeshSettings(fsdp=4, tensor=2))):
        states = [jax.device_get(nnx.state(each)) for each in (load_pretrained(copy, mesh=mesh), whole)]
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), *states))


def test_loaded_weights_may_be_donated(copy):
    """On a CPU they lie in memory that NumPy allocated."""
    params = nnx.to_pure_dict(nnx.state(load_pretrained(copy), nnx.Param))
    expected = jax.tree.map(lambda x: 2 * np.asarray(x), params)
    doubled = jax.jit(lambda tree: jax.tree.map(lambda x: 2 * x, tree), donate_argnums=0)(params)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), doubled, expected))


def test_a_tokenizer_larger_than_the_embedding(tmp_path, copy):
    model = load_pretrained(copy)
    tokenizer = SimpleNamespace(get_vocab=lambda: {"a": 0, "b": model.spec.vocab})
    with pytest.raises(AloeError, match=r"out: the tokenizer has 81 tokens, but the model's vocabulary has 80"):
        save_pretrained(model, tmp_path / "out", tokenizer=tokenizer)
    assert not (tmp_path / "out").exists()
    check_vocabulary(SimpleNamespace(get_vocab=lambda: {"a": 79}), model.spec, "model")


def test_end_of_sequence_ids_of_both_files(copy):
    (copy / "generation_config.json").write_text('{"eos_token_id": [3, 7]}')
    assert load_pretrained(copy).spec.eos_ids == (2, 3, 7)


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path, copy):
    model = load_pretrained(copy)
    out = tmp_path / "out"
    save_pretrained(model, out, max_shard_size="10KB")
    save_pretrained(model, out)
    assert [file.name for file in out.glob("*safetensors*")] == ["model.safetensors"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(AloeError, match=r"out: holds notes\.txt, which no export wrote"):
        save_pretrained(model, out)
    assert (out / "notes.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "out"]  # no temporary directory is left


def test_a_write_that_went_wrong_takes_no_name(tmp_path, copy, monkeypatch):
    def spoiled(tensors, path, metadata):
        save_file({key: tensor * 2 for key, tensor in tensors.items()}, path, metadata)

    monkeypatch.setattr(huggingface, "save_file", spoiled)
    with pytest.raises(AloeError, match="read back differs"):
        save_pretrained(load_pretrained(copy), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def change_tensors(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


KEY = "model.layers.1.mlp.up_proj.weight"


def cut_short(directory):
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def poison(value):
    return lambda directory: change_tensors(directory, lambda t: t[KEY].__setitem__((55, 31), value))


def only_a_pickle(directory):
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"")


def quantised(directory):
    change_tensors(directory, lambda t: t.update({KEY: np.ones((56, 32), np.int8)}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (poison(np.nan), rf"model\.safetensors: tensor {KEY} holds NaN or infinity"),
        (poison(-np.inf), rf"model\.safetensors: tensor {KEY} holds NaN or infinity"),
        (only_a_pickle, r"model\.safetensors: not found, only pytorch_model\.bin, a pickle: .* refused; convert it"),
        (quantised, rf"tensor {KEY} is stored as I8; supported: F64, F32, F16, BF16"),
        (cut_short, r"model\.safetensors: not a whole safetensors file"),
        (lambda d: (d / "model.safetensors").unlink(), r"model\.safetensors: not found"),
        (lambda d: (d / "config.json").unlink(), "holds neither config.json"),
        (lambda d: (d / "config.json").write_text("{"), r"config\.json: cannot be read as JSON"),
        (lambda d: change_tensors(d, lambda t: t.pop(KEY)), rf"tensor {KEY} \[56, 32\] is missing"),
        (lambda d: change_tensors(d, lambda t: t.update(extra=np.ones(1))), "tensor extra is no part of"),
        (
            lambda d: change_tensors(d, lambda t: t.update({KEY: np.ones((2, 3), np.float32)})),
            rf"tensor {KEY} is \[2, 3\], config.json makes it \[56, 32\]",
        ),
    ],
)
def test_broken_directories(copy, spoil, message):
    spoil(copy)
    with pytest.raises(AloeError, match=message):
        load_pretrained(copy)


def test_a_missing_shard(tmp_path, copy):
    save_pretrained(load_pretrained(copy), tmp_path / "out", max_shard_size="30KB")
    (tmp_path / "out/model-00002-of-00004.safetensors").unlink()
    with pytest.raises(
        AloeError, match=r"model-00002-of-00004[.]safetensors: not found, and model[.]safetensors[.]index"
    ):
        load_pretrained(tmp_path / "out")


def test_neither_kind_of_directory(tmp_path):
    with pytest.raises(AloeError, match="nowhere: not found"):
        load_pretrained(tmp_path / "nowhere")
    assert tokenizer_directory(GOLDEN / "llama") == GOLDEN / "llama"


@pytest.mark.parametrize("size", ["5", "5XB", "GB", "0GB", "-1MB"])
def test_shard_sizes(size):
    if size == "5":
        assert huggingface.size_in_bytes(size) == 5
    else:
        with pytest.raises(AloeError, match="max_shard_size"):
            huggingface.size_in_bytes(size)
