"""Plans of MaxText's models: the real step compiled for a slice, against formulas; the catalogue of all models."""

import json

import jax
import pytest
from click.testing import CliRunner

from aloe_jax import train
from aloe_jax.errors import AloeError
from aloe_jax.models.maxtext import internals
from aloe_jax.models.maxtext.decoder import MaxTextSpec
from aloe_jax.models.settings import ModelSettings
from aloe_jax.models.spec import Compute
from aloe_jax.planning import catalogue, flops
from aloe_jax.planning.architectures import published
from aloe_jax.planning.demand import measured
from aloe_jax.planning.plan import compile_step, estimate_plan, prepared
from aloe_jax.sampling import programs
from tests.parallel.test_topology import needs_libtpu
from tests.planning.subjects import LEAST, subject

DENSE = {
    "base_emb_dim": 512, "base_mlp_dim": 1024, "base_num_decoder_layers": 2, "base_num_query_heads": 4,
    "base_num_kv_heads": 2, "head_dim": 128, "vocab_size": 256,
}  # fmt: skip
EXPERTS = {"base_mlp_dim": 512, "base_moe_mlp_dim": 512, "num_experts": 8, "num_experts_per_tok": 2}
MODELS = {"llama3.1-8b": DENSE, "qwen3-30b-a3b": DENSE | EXPERTS | {"base_num_decoder_layers": 1}}


def tiny(name, **changes):
    return MaxTextSpec(name, MODELS[name] | changes, 4096)


def compiled_and_counted(name, **changes):
    """A step compiled for four chips, its memory, and the formula's count; layers are unrolled: a loop's count once."""
    spec = tiny(name, scan_layers=False, **changes)
    made, mesh, workload = prepared(subject("v5e:2x2", stage="sft", spec=spec, model__remat="none"), real=True)
    compiled = compile_step(made, mesh, workload, LEAST)
    counted = compiled.cost_analysis()["flops"] * mesh.size
    scored = workload.packed.rows.scored.shape[1]
    formula = flops.computed(made.settings, spec, scored, pairs=0)
    assert formula.total == pytest.approx(counted, rel=0.02)
    assert formula.total - formula.attention < 0.9 * counted  # the control
    demand = measured(compiled, mesh)
    state = 3 * 4 * spec.parameter_count() / 4  # in float32 with two moments, over four chips; norms on all of them
    assert state <= demand.arguments <= 1.02 * state + 2**18
    assert demand.peak > demand.arguments
    guess = estimate_plan(made)
    assert guess.demand.arguments == pytest.approx(demand.arguments, rel=0.02)
    assert guess.computed == formula
    for axis in ("fsdp", "tensor"):
        assert sum(e.bytes for e in demand.exchanges if e.axes == (axis,)) > 0
    return made, scored, counted


@needs_libtpu
@pytest.mark.soak
def test_the_compiled_step_is_what_the_formulas_say():
    compiled_and_counted("llama3.1-8b", base_num_decoder_layers=1)


@needs_libtpu
@pytest.mark.soak
def test_of_experts_a_tokens_two_count_in_operations_and_all_in_memory():
    made, scored, counted = compiled_and_counted("qwen3-30b-a3b")
    everyone = flops.computed(made.settings, tiny("qwen3-30b-a3b", num_experts_per_tok=8), scored, pairs=0)
    assert everyone.total > 1.5 * counted  # the control
    few = tiny("llama3.1-8b", base_num_decoder_layers=1).parameter_count()
    assert made.spec.parameter_count() > 2.5 * few


def test_weights_of_layers_are_told_apart():
    for name, layers in (("llama3.1-8b", 2), ("qwen3-30b-a3b", 1)):
        spec = tiny(name)
        stacked = spec.stacked()
        assert set(stacked.values()) == {layers}
        others = {key.split(".")[1] for key in spec.weights().keys() - stacked.keys()}
        assert others == {"embedding", "decoder_norm", "logits_dense"}
    spec = tiny("llama3.1-8b")
    graph, shapes, _ = spec.abstract("float32", internals.single_device_mesh(), Compute())
    apart = jax.eval_shape(lambda params: programs.unstack(graph, params), shapes)
    (axes,), (arrays,) = spec.unstacked_axes(), apart
    assert axes.keys() == arrays.keys() and all(len(axes[key]) == arrays[key].ndim for key in axes)


def test_a_models_sizes_are_told_without_its_weights():
    by_name = ModelSettings(backend="maxtext", name="llama3.1-8b", tokenizer="nowhere")
    said, spec = published("", by_name)
    assert said == "llama3.1-8b" and spec.parameter_count() == 8_030_261_248
    by_path = ModelSettings(backend="maxtext", path="runs/sft/Llama-3.1-8B")
    said, spec = published(by_path.path, by_path)
    assert (said, spec.family, spec.parameter_count()) == ("Llama-3.1-8B", "llama", 8_030_261_248)
    assert published(by_path.path)[1].parameter_count() == spec.parameter_count()


def test_what_a_token_of_experts_goes_through():
    spec = tiny("qwen3-30b-a3b")
    assert spec.computed_matrices() == 512 * 128 * 2 * (4 + 2) + 8 * 512 + 2 * 3 * 512 * 512
    assert spec.score_values() == 4 * 128
    few = {"base_num_decoder_layers": 2, "first_num_dense_layers": 1, "base_emb_dim": 64}
    assert MaxTextSpec("deepseek2-16b", few).score_values() == 2 * 16 * (128 + 64 + 128) / 2


# ---------------------------------------------------------------- the catalogue


def test_every_name_of_both_backends_is_in_the_catalogue():
    kept = json.loads(catalogue.KEPT.read_text())
    assert kept["maxtext"] == internals.VERSION
    assert [model["name"] for model in kept["models"]] == internals.names()
    found = {(model.backend, model.name): model for model in catalogue.models()}
    assert found["native", "Meta-Llama-3-8B"].parameters == 8_030_261_248
    assert not found["native", "Meta-Llama-3-8B"].refused


# Those that end in different ways, the quickest to build of each.
ASKED = ("gemma2-2b", "gpt-oss-20b", "llama3-405b", "llama4-17b-16e", "qwen3.5-35b-a3b")


@pytest.mark.parametrize("name", ASKED)
def test_the_catalogue_says_what_a_run_would_say(name):
    (kept,) = [model for model in catalogue.models() if (model.backend, model.name) == ("maxtext", name)]
    assert catalogue.ask(name) == kept, "python -m aloe_jax.planning.catalogue"


def test_refusals_in_the_catalogue_are_those_of_a_run():
    found = {model.name: model for model in catalogue.models() if model.backend == "maxtext"}
    with pytest.raises(AloeError) as refusal:
        MaxTextSpec("llama4-17b-16e").parameter_count()
    refused = found["llama4-17b-16e"].refused
    assert refused.keys() == catalogue.ABILITIES.keys()
    assert refused["tree"].partition(",")[0] in str(refusal.value)
    assert set(found["deepseek2-16b"].refused) == {"huggingface_in", "huggingface_out", "sampling"}
    assert found["mixtral-8x7b"].active < found["mixtral-8x7b"].parameters / 3


def test_list_models_needs_no_config_and_no_maxtext(monkeypatch):
    monkeypatch.setattr(internals, "parts", lambda: pytest.fail("MaxText was imported"))
    plain, machine = (CliRunner().invoke(train.main, ["--list-models", *more]) for more in ([], ["--json"]))
    assert plain.exit_code == 0, plain.output
    for text in ("Meta-Llama-3-8B", "qwen3-30b-a3b", "30.53", "CHUNK attention", "gemma3_text"):
        assert text in plain.output, text
    told = json.loads(machine.output)
    assert CliRunner().invoke(train.main, ["--json", "--list-models"]).output == machine.output
    (mixtral,) = [model for model in told["models"] if model["name"] == "mixtral-8x7b"]
    assert mixtral["supported"]["tree"] and mixtral["supported"]["huggingface_in"]
    assert CliRunner().invoke(train.main, []).exit_code == 2  # a run still needs its config
