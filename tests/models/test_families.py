"""Every model family against transformers (through golden values), out and in again, spread over a mesh."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from aloe_jax.errors import AloeError
from aloe_jax.models.huggingface import save_pretrained
from aloe_jax.models.native.decoder import DecoderSpec
from aloe_jax.models.opening import load_pretrained
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.sampling.sampler import Sampler
from tests.golden.seeded import checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = sorted(path.parent.name for path in GOLDEN.glob("*/tensors.json"))
forward = nnx.jit(lambda model, tokens: model(tokens))


@pytest.fixture(scope="module", params=NAMES)
def golden(request, tmp_path_factory):
    """A checkpoint of one family, what transformers computes with it, and the model that we load."""
    directory = checkpoint(GOLDEN / request.param, tmp_path_factory.mktemp(request.param) / "model")
    return directory, np.load(GOLDEN / request.param / "golden.npz"), load_pretrained(directory)


def test_logits_equal_transformers(golden):
    _, values, model = golden
    logits = forward(model, values["tokens"][None])[0]
    np.testing.assert_allclose(logits, values["logits"], atol=1e-4)


# What the sampler's cache meets: stretched positions, windows in some layers, norms of keys, norms behind.
@pytest.mark.parametrize(
    "golden",
    [
        name if name in ("llama31", "qwen2_sliding", "qwen3", "olmo2") else pytest.param(name, marks=pytest.mark.soak)
        for name in NAMES
    ],
    indirect=True,
)
def test_greedy_replies_equal_transformers(golden):
    _, values, model = golden
    reply = Sampler(model).generate([values["prompt"].tolist()], len(values["greedy"]), stop=())
    assert reply == [values["greedy"].tolist()]


def test_saving_what_was_loaded_changes_no_bit(golden, tmp_path):
    directory, _, model = golden
    save_pretrained(model, tmp_path / "out", max_shard_size="20KB")
    written = {}
    for file in (tmp_path / "out").glob("*.safetensors"):
        written |= load_file(file)
    original = load_file(directory / "model.safetensors")
    assert written.keys() == original.keys()
    assert all((written[key] == original[key]).all() for key in original)
    assert load_pretrained(tmp_path / "out").spec == model.spec
    before, after = (json.loads((path / "config.json").read_text()) for path in (directory, tmp_path / "out"))
    for key in ("architectures", "model_type"):
        assert before[key] == after[key]
    unused = {"sliding_window", "max_window_layers"} if not model.spec.windows else {"max_window_layers"}
    same = {key: after[key] for key in before.keys() & after.keys() - unused}
    assert same == {key: before[key] for key in same}


def test_the_config_of_transformers_4_is_the_same_model(golden):
    directory, _, model = golden
    values = json.loads((directory / "config.json").read_text())
    rope = values.pop("rope_parameters")
    values["rope_theta"] = rope.pop("rope_theta")
    values["rope_scaling"] = None if rope == {"rope_type": "default"} else rope
    values["torch_dtype"] = values.pop("dtype")
    if values.get("layer_types") == ["full_attention", *["sliding_attention"] * 2]:
        del values["layer_types"]  # what max_window_layers already says
    assert DecoderSpec.from_huggingface(values) == model.spec


def test_counts(golden):
    directory, _, model = golden
    stored = load_file(directory / "model.safetensors")
    assert model.spec.parameter_count() == sum(tensor.size for tensor in stored.values())
    matrices = sum(t.size for key, t in stored.items() if t.ndim == 2 and "embed_tokens" not in key)
    if model.spec.tie_embeddings:
        matrices += model.spec.vocab * model.spec.width
    pairs = sum(min(100, 5 * window) if window else 100 for window in model.spec.windows or (0,) * model.spec.layers)
    expected = 2 * 5 * matrices + 4 * model.spec.query_heads * model.spec.head_size * pairs
    assert model.spec.forward_flops(5, 100) == expected


@pytest.mark.parametrize("name", ["llama_biases", "mistral", "qwen2_sliding", "qwen3", "olmo_clipped", "olmo2"])
def test_spread_over_a_mesh(tmp_path, name):
    directory, values = checkpoint(GOLDEN / name, tmp_path / "model"), np.load(GOLDEN / name / "golden.npz")
    model = load_pretrained(directory)
    mesh = make_mesh(MeshSettings(fsdp=4, tensor=2))
    spread = load_pretrained(directory, mesh=mesh)
    states = [jax.device_get(nnx.to_pure_dict(nnx.state(each, nnx.Param))) for each in (spread, model)]
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), *states))
    split = {name for name, param in spread.layers.items() if not param[...].sharding.is_fully_replicated}
    assert split >= {"query", "key", "output", "up"} | {f"{bias}_bias" for bias in model.spec.biases} - {
        "output_bias",
        "down_bias",
    }
    tokens = np.tile(values["tokens"][:40], (4, 1))
    graph, state = nnx.split(spread)
    with jax.set_mesh(mesh):
        logits = jax.jit(lambda state, tokens: nnx.merge(graph, state)(tokens))(state, tokens)
    np.testing.assert_allclose(logits, np.tile(values["logits"][:40], (4, 1, 1)), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama31", {"rope_scaling": None}),
        ("mistral", {"windows": ()}),
        ("mistral", {"windows": (15,) * 3}),
        ("qwen2_sliding", {"windows": (16, 16, 16)}),
        ("qwen3_sliding", {"windows": (0, 16, 16)}),
        ("olmo_clipped", {"clip_qkv": None}),
    ],
)
def test_each_switch_shows_in_the_logits(tmp_path, name, change):
    values = np.load(GOLDEN / name / "golden.npz")
    model = load_pretrained(checkpoint(GOLDEN / name, tmp_path / "model"))
    parameters = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    other = dataclasses.replace(model.spec, **change).assemble(parameters)
    assert np.abs(forward(other, values["tokens"][None])[0] - values["logits"]).max() > 0.01


@pytest.mark.parametrize("name", ["llama_biases", "olmo2"])
def test_layer_by_layer_is_the_same_load(monkeypatch, tmp_path, name):
    """The way of accelerators, on CPU devices: one layer at a time goes into an array that is already there."""
    directory = checkpoint(GOLDEN / name, tmp_path / "model")
    whole = load_pretrained(directory)
    monkeypatch.setattr("aloe_jax.models.native.tensors.layer_by_layer", lambda: True)
    for mesh in (None, make_mesh(MeshSettings(data=2, fsdp=2, tensor=2))):
        streamed = load_pretrained(directory, mesh=mesh)
        states = [nnx.to_pure_dict(nnx.state(each, nnx.Param)) for each in (streamed, whole)]
        shardings = [leaf.sharding for leaf in jax.tree.leaves(states[0])]
        assert mesh is None or any(not sharding.is_fully_replicated for sharding in shardings)
        same = jax.tree.map(lambda a, b: bool((jax.device_get(a) == jax.device_get(b)).all()), *states)
        assert jax.tree.all(same)


def test_the_ids_of_generation_config_are_kept(tmp_path):
    directory = checkpoint(GOLDEN / "llama31", tmp_path / "model")
    values = json.loads((directory / "config.json").read_text())
    del values["pad_token_id"]
    (directory / "config.json").write_text(json.dumps(values | {"eos_token_id": 91}))
    (directory / "generation_config.json").write_text('{"eos_token_id": [91, 92, 93]}')
    for pad in (None, 91):
        if pad:
            (directory / "generation_config.json").write_text('{"eos_token_id": [91, 92, 93], "pad_token_id": 91}')
        model = load_pretrained(directory)
        assert (model.spec.eos_ids, model.spec.pad_id) == ((91, 92, 93), pad)
        save_pretrained(model, tmp_path / "out")
        written = json.loads((tmp_path / "out/generation_config.json").read_text())
        assert written == {"bos_token_id": 1, "eos_token_id": [91, 92, 93]} | ({"pad_token_id": 91} if pad else {})
        assert load_pretrained(tmp_path / "out").spec == model.spec


@pytest.mark.parametrize(
    ("name", "claimed", "message"),
    [
        ("qwen3", "llama", r"[qk]_norm\.weight is no part of a llama .* the tensors are those of qwen3"),
        ("llama31", "olmo2", r"post_feedforward_layernorm\.weight .* missing .* those of llama or mistral"),
        ("qwen2", "mistral", r"[qkv]_proj\.bias is no part of a mistral .* those of qwen2"),
        ("olmo", "qwen2", r"is missing .* those of olmo"),
    ],
)
def test_the_tensors_of_another_family(tmp_path, name, claimed, message):
    directory = checkpoint(GOLDEN / name, tmp_path / "model")
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(values | {"model_type": claimed}))
    with pytest.raises(AloeError, match=message):
        load_pretrained(directory)
