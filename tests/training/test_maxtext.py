"""MaxText's models: against transformers (golden values), on token trees, and through every command.

One file, so that one process imports MaxText.
"""

import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from click.testing import CliRunner
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from aloe_jax.errors import AloeError
from aloe_jax.models.huggingface import save_pretrained
from aloe_jax.models.maxtext import internals
from aloe_jax.models.maxtext.decoder import MaxTextSpec
from aloe_jax.models.opening import load_pretrained, open_model
from aloe_jax.models.settings import ModelSettings
from aloe_jax.models.spec import Compute
from aloe_jax.models.weights import nested
from aloe_jax.sampling.sampler import Sampler
from aloe_jax.settings import dump_settings
from aloe_jax.training import step
from aloe_jax.training.logprobs import Scores
from aloe_jax.training.totals import Mean
from tests.golden.seeded import checkpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "maxtext"
NAMES = sorted(path.parent.name for path in GOLDEN.glob("*/tensors.json"))
LENGTH = 48
MAXTEXT = ModelSettings(backend="maxtext", path="a directory")


def load(directory):
    return open_model(MAXTEXT.model_copy(update={"path": str(directory)})).load()


def stored(name, directory):
    return checkpoint(GOLDEN / name, directory, norm=0.0 if name.startswith("gemma") else 1.0)


# ---------------------------------------------------------------- families


def tree(vocab):
    """Rows [4, LENGTH]: a tree of a stem and two branches, each branch as a path of its own, and a broken tree.

    Returns tokens, positions, subtree_end, and where the branches' tokens stand in the first row and in their own.
    """
    stem, first, second = 20, 12, 14
    tokens = np.random.default_rng(3).integers(4, vocab, stem + first + second)
    branches = [np.arange(stem, stem + first), np.arange(stem + first, len(tokens))]
    rows = {name: np.zeros((4, LENGTH), np.int32) for name in ("tokens", "positions", "ends")}
    rows["ends"][:] = np.arange(LENGTH) + 1  # padding sees itself alone
    for row, path in enumerate([np.arange(len(tokens)), *(np.r_[:stem, branch] for branch in branches)]):
        rows["tokens"][row, : len(path)] = tokens[path]
        rows["positions"][row, : len(path)] = np.arange(len(path))
        rows["ends"][row, : len(path)] = len(path)
    rows["positions"][0, branches[1]] -= first
    rows["ends"][0, branches[0]] = stem + first
    rows["tokens"][3], rows["positions"][3] = rows["tokens"][0], rows["positions"][0]
    rows["ends"][3] = LENGTH  # the second branch sees the first
    return *rows.values(), [(0, branch, row + 1, stem + np.arange(len(branch))) for row, branch in enumerate(branches)]


@nnx.jit
def forward(model, tokens, positions, ends):
    return model(tokens, positions, ends)


@nnx.jit
def alone(model, tokens):
    return model(tokens)


def check_tree(logits, places, tolerance):
    for row, branch, path, own in places:
        np.testing.assert_allclose(logits[row, branch], logits[path, own], atol=tolerance)
    row, branch, path, own = places[1]
    assert np.abs(logits[3, branch] - logits[path, own]).max() > 0.01  # the broken mask shows


# Two with what differs most: caps, windows and scaled norms; experts.
@pytest.mark.parametrize(
    "name", [name if name in ("gemma2", "qwen3_moe") else pytest.param(name, marks=pytest.mark.soak) for name in NAMES]
)
def test_families_equal_transformers_and_trees_equal_paths(name, tmp_path):
    directory, values = stored(name, tmp_path / "model"), np.load(GOLDEN / name / "golden.npz")
    model = load(directory)
    tokens, positions, ends, places = tree(model.spec.vocab)
    plain = np.full((1, LENGTH), LENGTH)
    logits = forward(
        model,
        np.concatenate([tokens, values["tokens"][None], values["tokens"][None]]),
        np.concatenate([positions, np.arange(LENGTH)[None], values["positions"][None]]),
        np.concatenate([ends, plain, plain]),
    )
    np.testing.assert_allclose(logits[4], values["logits"], atol=1e-4)
    if not model.spec.windows:  # which count tokens of a path by its positions
        np.testing.assert_allclose(logits[5], values["stretched"], atol=1e-4)
    check_tree(np.asarray(logits), places, 1e-5)

    save_pretrained(model, tmp_path / "out", max_shard_size="20KB")
    written = {}
    for file in (tmp_path / "out").glob("*.safetensors"):
        written |= load_file(file)
    original = load_file(directory / "model.safetensors")
    assert written.keys() == original.keys()
    # Scaled weights (Llama's queries, Gemma's embeddings and norms) come back within a rounding of float32, the rest,
    # and all of a checkpoint in bfloat16, bit for bit.
    exact = sum(bool((written[key] == original[key]).all()) for key in original)
    assert exact == len(original) or name in ("llama_tied", "gemma2", "gemma3")
    for key, tensor in original.items():
        np.testing.assert_allclose(written[key], tensor, rtol=1e-6, atol=3e-7)
    assert MaxTextSpec.read_huggingface(tmp_path / "out") == model.spec
    stored_sizes = sum(tensor.size for tensor in original.values())
    assert model.spec.parameter_count() == stored_sizes


@pytest.mark.parametrize("name", ["gemma2"])
def test_what_was_published_in_bfloat16_comes_back_bit_for_bit(name, tmp_path):
    directory = stored(name, tmp_path / "model")
    halves = {key: tensor.astype(jnp.bfloat16) for key, tensor in load_file(directory / "model.safetensors").items()}
    save_file(halves, directory / "model.safetensors")
    save_pretrained(load(directory), tmp_path / "out", dtype="bfloat16")
    again = load_file(tmp_path / "out/model.safetensors")
    assert again.keys() == halves.keys()
    for key, tensor in halves.items():
        np.testing.assert_array_equal(again[key].view(np.uint16), tensor.view(np.uint16), key)


TINY = {
    "base_emb_dim": 32, "base_mlp_dim": 48, "base_moe_mlp_dim": 24, "base_num_decoder_layers": 3, "head_dim": 16,
    "base_num_query_heads": 4, "base_num_kv_heads": 4, "vocab_size": 96, "num_experts": 4, "num_experts_per_tok": 2,
    "max_position_embeddings": 256,
}  # fmt: skip
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "first_num_dense_layers": 1, "n_routing_groups": -1, "topk_routing_group": -1,
}  # fmt: skip


def drawn(spec, seed=0, mesh=None):
    """A model with every weight random, on a mesh or one device."""
    rng = np.random.default_rng(seed)
    values = {
        name: jnp.asarray(rng.normal(float(name.endswith("scale")), 0.2, weight.shape), jnp.float32)
        for name, weight in spec.weights().items()
    }
    return spec.assemble(nested(values), Compute())


def test_deepseek_trees_equal_paths():
    model = drawn(MaxTextSpec("deepseek3-671b", {**TINY, **LATENT}, 256))
    *row, places = tree(96)
    check_tree(np.asarray(forward(model, *row)), places, 1e-4)
    assert any("gate.bias" in name for name in model.spec.weights())  # the router's, which is no nnx.Param there
    with pytest.raises(AloeError, match="no Hugging Face form that was checked"):
        save_pretrained(model, "never")
    with pytest.raises(AloeError, match=r"keys and values of different sizes \(MLA\)"):
        Sampler(model, max_length=32, rows=1).generate([[5, 6]], 1)


# ---------------------------------------------------------------- a run


MOE = {
    "base_emb_dim": 16, "base_mlp_dim": 16, "base_moe_mlp_dim": 16, "base_num_decoder_layers": 2, "num_experts": 4,
    "base_num_query_heads": 4, "base_num_kv_heads": 2, "head_dim": 8, "num_experts_per_tok": 2, "vocab_size": 304,
    "load_balance_loss_weight": 0.01,
}  # fmt: skip
SPREAD = {"data": 2, "fsdp": 2, "tensor": 2}


def run_command(settings, path):
    from aloe_jax.train import main

    path.write_text(dump_settings(settings))
    done = CliRunner().invoke(main, ["--config", str(path)])
    assert done.exit_code == 0, done.output
    return done.output, [json.loads(line) for line in Path(settings.output, "metrics.jsonl").read_text().splitlines()]


def parameters(path):
    return jax.device_get(nnx.to_pure_dict(nnx.state(load_pretrained(path), nnx.Param)))


@pytest.mark.parametrize(
    "whole", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["training and benchmark", "every command"]
)
def test_a_mixture_of_experts(settings, tmp_path, whole):
    name = {"backend": "maxtext", "name": "qwen3-30b-a3b", "overrides": MOE}
    sft = settings(output="sft", model=name, steps=4, evaluate_every=4, checkpoints={"every": 2}, mesh=SPREAD)
    told, lines = run_command(sft, tmp_path / "sft.yaml")
    assert "19,184 parameters, 2 layers, 16 wide, 304 tokens" in told
    losses = [line for line in lines if line["kind"] == "train"]
    assert losses[-1]["loss"] < losses[0]["loss"]
    assert 0.005 < losses[0]["router"] < 0.1
    np.testing.assert_allclose(losses[0]["loss"], losses[0]["nll"] + losses[0]["router"], rtol=1e-5)
    (validated,) = (line for line in lines if line["kind"] == "validation")
    assert 0.005 < validated["router"] < 0.1
    np.testing.assert_allclose(validated["loss"], validated["nll"] + validated["router"], rtol=1e-5)

    if not whole:
        benchmark(tmp_path, sft.output)
        return

    expected = parameters(sft.output)
    shutil.rmtree(f"{sft.output}/checkpoints/4")  # as if it had been killed after its first save
    Path(sft.output, "finished.json").unlink(missing_ok=True)
    told, again = run_command(sft, tmp_path / "sft.yaml")
    assert "resuming after step 2" in told and again == lines
    jax.tree.map(np.testing.assert_array_equal, parameters(sft.output), expected)

    reference = {"name": None, "overrides": {}, "path": sft.output, "tokenizer": None}
    dpo = settings("dpo", "dpo", model={**name, **reference}, steps=4, evaluate_every=4, mesh=SPREAD)
    _, lines = run_command(dpo, tmp_path / "dpo.yaml")
    first, *_, last = (line for line in lines if line["kind"] == "train")
    np.testing.assert_allclose(first["loss"] - first["router"], np.log(2), rtol=1e-5)
    assert last["loss"] < first["loss"] and last["margin"] > 0

    from aloe_jax.publishing.export import export

    assert export(dpo.output, str(tmp_path / "out")) == 19_184
    exported, run = load(tmp_path / "out"), load_pretrained(dpo.output)
    tokens = np.arange(4, 24)[None]
    np.testing.assert_allclose(alone(exported, tokens), alone(run, tokens), atol=1e-6)
    assert "Qwen 3 MoE" in (tmp_path / "out/README.md").read_text()
    benchmark(tmp_path, dpo.output)

    replies = Sampler(run, max_length=64, rows=2).generate([[5, 6, 7, 8, 9], [11, 12]], 4, stop=())
    for prompt, reply in zip(([5, 6, 7, 8, 9], [11, 12]), replies, strict=True):
        path = np.array([[*prompt, *reply, *[0] * 11]])[:, :16]
        ends = np.array([np.arange(len(prompt) - 1, len(prompt) + 3)])
        np.testing.assert_array_equal(np.asarray(alone(run, path))[0, ends[0]].argmax(axis=-1), reply)


def benchmark(tmp_path, run):
    """The run talks to one simulated person, is rated, and scores held-out pairs."""
    from aloe_jax.evaluate import main
    from aloe_jax.llm.world.persona_texts import write_personality, write_profile

    draw = random.Random(0)
    person = {"id": "b0", "profile": write_profile(draw), "personality": write_personality(draw)}
    (tmp_path / "personas.jsonl").write_text(json.dumps(person) + "\n")
    (tmp_path / "eval.yaml").write_text(
        f"output: {tmp_path}/benchmark\npersonas: {tmp_path}/personas.jsonl\ncases: 1\nturns: 2\nbootstrap: 10\n"
        f"roles: {{provider: scripted}}\nmodels: {{ours: {{path: {run}}}}}\n"
        "judging: {calibrate: skip}\nsampling: {max_new_tokens: 4, max_length: 256, rows: 1}\n"
    )
    done = CliRunner().invoke(main, ["--config", f"{tmp_path}/eval.yaml"])
    assert done.exit_code == 0, done.output
    numbers = json.loads((tmp_path / "benchmark/metrics.json").read_text())["models"]["ours"]
    assert numbers["cases"] == 1 and len(numbers["al"]) == 2


def test_the_routers_loss_reaches_the_gradient():
    """A penalty of weight w adds w times its gradient, whatever the number of tokens that the loss is a mean of."""

    class Model(nnx.Module):
        def __init__(self):
            self.x = nnx.Param(jnp.float32(2.0))

    def objective(scores, batch):
        return {"loss": Mean(3.0 * scores.replies, jnp.float32(3.0))}

    graph, params = nnx.split(Model(), nnx.Param)
    given = lambda model, batch, entropy: (Scores(*3 * [model.x[...] * batch["a"][0]]), model.x[...] ** 2)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "score", given)
        optimizer, mesh = step.MasterCopies(optax.sgd(1.0)), internals.single_device_mesh()
        params = jax.device_put(nnx.to_pure_dict(params), NamedSharding(mesh, PartitionSpec()))
        state = step.new_state(params, optimizer, mesh)
        validated = step.evaluation_step(graph, objective, mesh)(params, {"a": jnp.ones(8)})
        made = step.train_step(graph, objective, optimizer, state, mesh)
        after, totals = made(state, {"a": jnp.ones(8)})
    np.testing.assert_allclose(after["params"]["x"], 2.0 - (1.0 + 2 * 2.0))
    np.testing.assert_allclose(totals["loss"].total / totals["loss"].weight, 2.0 + 4.0)
    for name, value in {"loss": 2.0 + 4.0, "router": 4.0}.items():
        np.testing.assert_allclose(validated[name].total / validated[name].weight, value)


# ---------------------------------------------------------------- refusals, and what the process keeps


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("llama9", {}, "model.name: MaxText has no llama9"),
        ("llama3.1-8b", {"base_embd_dim": 4}, "model.overrides: MaxText refuses them"),
        ("llama3.1-8b", {"attention": "flash"}, "model.overrides.attention: is set by model.attention"),
        ("mixtral-8x7b", {"capacity_factor": 1.25}, "model.overrides.capacity_factor: with a capacity"),
        ("llama4-17b-16e", {"base_num_decoder_layers": 4}, "CHUNK attention"),
        ("qwen3-next-80b-a3b", {"base_num_decoder_layers": 4}, "GatedDelta"),
    ],
)
def test_what_cannot_be_right_is_refused(name, overrides, message):
    with pytest.raises(AloeError, match=message):
        MaxTextSpec(name, overrides, 256).parameter_count()


def test_directories_that_do_not_fit_are_refused(tmp_path):
    directory = stored("qwen3", tmp_path / "model")
    values = json.loads((directory / "config.json").read_text())
    for change, message in [
        ({"model_type": "phi3"}, "model_type is 'phi3'; of these MaxText models are read"),
        ({"sliding_window": 8, "use_sliding_window": True}, "sliding_window is 8; MaxText's qwen3 has no windows"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type is 'yarn'"),
        ({"intermediate_size": 41}, r"is \[40, 32\], config.json makes it \[41, 32\]"),
    ]:
        (directory / "config.json").write_text(json.dumps(values | change))
        with pytest.raises(AloeError, match=message):
            load(directory)
    (directory / "config.json").write_text(json.dumps(values))
    tensors = load_file(directory / "model.safetensors")
    key = "model.layers.1.mlp.up_proj.weight"
    for changed, message in [
        ({k: v for k, v in tensors.items() if k != key}, f"tensor {key} .* is missing"),
        (tensors | {"model.layers.7.mlp.up_proj.weight": tensors[key]}, "is no part of a qwen3"),
        (tensors | {key: tensors[key] * np.float32(np.nan)}, f"tensor {key} holds NaN"),
    ]:
        save_file(changed, directory / "model.safetensors")
        with pytest.raises(AloeError, match=message):
            load(directory)


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(internals.importlib.metadata, "version", lambda name: "0.2.6")
    with pytest.raises(AloeError, match=r"maxtext is 0.2.6, supported: 0.2.5; pip install maxtext==0.2.5"):
        internals.check_version()


def test_a_spec_is_the_same_from_json(tmp_path):
    from aloe_jax.models.run_directory import load_spec, save_spec

    spec = replace(MaxTextSpec.read_huggingface(stored("olmo3", tmp_path / "model")), eos_ids=(2, 3))
    save_spec(spec, tmp_path)
    assert load_spec(tmp_path) == spec and hash(load_spec(tmp_path)) == hash(spec)


PROCESS = """
import logging, os, sys, warnings
import aloe_jax.training.loop, aloe_jax.publishing.export, aloe_jax.sampling, aloe_jax.benchmark.stages
import aloe_jax.models.opening, aloe_jax.models.maxtext.tensors, qwix
assert not [name for name in sys.modules if name.split(".")[0] == "maxtext"], "imported without being used"
def held():
    handlers = {name: (logger.level, list(logger.handlers)) for name, logger in logging.root.manager.loggerDict.items()
                if isinstance(logger, logging.Logger)}
    find = sys.modules["qwix._src.utils.flax_util"].find_param
    return dict(os.environ), handlers, list(warnings.filters), logging.root.level, list(logging.root.handlers), find
import importlib
importlib.import_module("qwix._src.utils.flax_util")
before = held()
from aloe_jax.models.maxtext import internals
internals.parts(); internals.resolve("llama3.1-8b", ())
after = held()
assert before[0] == after[0], set(before[0].items()) ^ set(after[0].items())
assert all(after[1][name] == levels for name, levels in before[1].items())  # it may make loggers of its own
assert before[2:] == after[2:], (before[2:], after[2:])
assert not {"tensorflow", "torch", "tunix"} & {name.split(".")[0] for name in sys.modules}
"""


def test_nothing_is_imported_unless_it_is_used_and_nothing_is_left_behind():
    done = subprocess.run([sys.executable, "-c", PROCESS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "" and "DECOUPLED" not in done.stderr
