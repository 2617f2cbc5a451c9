"""LoRA and QLoRA runs: only adapters are trained, saved and resumed, and the reference needs no second model."""

import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from aloe_jax.errors import AloeError
from aloe_jax.models.opening import load_pretrained, load_run
from aloe_jax.models.run_directory import checkpoint_steps
from aloe_jax.publishing.export import export
from aloe_jax.training.checkpoint import Checkpoints
from aloe_jax.training.run import train

TOKENS = np.arange(24)[None] % 50


def records(settings):
    lines = (json.loads(line) for line in Path(settings.output, "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "train"]


def params(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


@nnx.jit
def logits(model):
    return model(TOKENS)


def adapted(settings, base, stage="dpo", output="run", lora=None, **changes):
    lora = {"rank": 4} | (lora or {})
    return settings(stage, output, model={"path": base, "tokenizer": None, "lora": lora}, **changes)


@pytest.mark.parametrize(
    ("base", "mesh"), [("as_loaded", {"fsdp": 8}), ("nf4", {"data": 2, "fsdp": 2, "tensor": 2})], ids=["LoRA", "QLoRA"]
)
def test_dpo_begins_at_log_two_and_trains_adapters_only(settings, starting_model, base, mesh):
    run = adapted(settings, starting_model, lora={"base": base}, mesh=mesh, optimizer={"learning_rate": 3e-2})
    train(run)
    losses = [record["loss"] for record in records(run)]
    assert losses[0] == pytest.approx(math.log(2), rel=1e-6)
    assert losses[-1] < losses[0] - 0.01 and all(record["grad_norm"] > 0 for record in records(run))

    saved = Path(run.output, "checkpoints", "6", "params")
    size = sum(file.stat().st_size for file in saved.rglob("*") if file.is_file())
    whole = sum(file.stat().st_size for file in Path(starting_model, "checkpoints", "2", "params").rglob("*"))
    assert size < whole

    beside = load_run(run.output, merge=False)
    before = params(load_pretrained(starting_model))
    if base == "as_loaded":  # the frozen weights are what they were
        jax.tree.map(np.testing.assert_array_equal, params(beside), before)
    assert all(np.any(np.asarray(value[...])) for value in beside.adapters.values())
    np.testing.assert_allclose(logits(load_pretrained(run.output)), logits(beside), atol=2e-5)
    assert float(np.abs(logits(beside) - logits(load_pretrained(starting_model))).max()) > 1e-2


def test_sft_with_adapters_learns_and_resumes_bitwise(settings, starting_model):
    decaying = {"learning_rate": 3e-2, "schedule": "cosine"}
    whole = adapted(settings, starting_model, "sft", "whole", steps=6, optimizer=decaying)
    train(whole)
    losses = [record["loss"] for record in records(whole)]
    assert losses[-1] < losses[0] - 0.1

    stopped = adapted(settings, starting_model, "sft", "stopped", steps=6, optimizer=decaying)
    real, calls = Checkpoints.save, []

    def save(self, step, *rest):
        real(self, step, *rest)
        calls.append(step)
        if len(calls) == 2:
            self.wait()
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "save", save)
        train(stopped)
    assert checkpoint_steps(stopped.output)[-1] == 4
    train(stopped)
    one, other = (load_run(run.output, merge=False) for run in (whole, stopped))
    for name, value in one.adapters.items():
        np.testing.assert_array_equal(value[...], other.adapters[name][...])
    assert [record["loss"] for record in records(stopped)] == losses


def test_dpo_on_top_of_an_adapted_run(settings, starting_model):
    sft = adapted(settings, starting_model, "sft", "sft", steps=4, optimizer={"learning_rate": 3e-2})
    train(sft)
    dpo = adapted(settings, sft.output, "dpo", "dpo", steps=2)
    train(dpo)
    assert records(dpo)[0]["loss"] == pytest.approx(math.log(2), rel=1e-6)
    base, beside = load_pretrained(sft.output), load_run(dpo.output, merge=False)
    jax.tree.map(np.testing.assert_array_equal, params(beside), params(base))

    whole, alone = Path(settings().output, "..", "whole"), Path(settings().output, "..", "alone")
    export(dpo.output, str(whole))
    jax.tree.map(np.testing.assert_array_equal, params(load_pretrained(whole)), params(load_pretrained(dpo.output)))
    assert "LoRA: rank 4" in (whole / "README.md").read_text()
    with pytest.raises(AloeError, match=r"which peft cannot load; export that first .*--base DIR"):
        export(dpo.output, str(alone), adapter=True)
    assert export(dpo.output, str(alone), adapter=True, base="some/model") == sum(
        v[...].size for v in beside.adapters.values()
    )
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= {f.name for f in alone.iterdir()}
    with pytest.raises(AloeError, match="holds no adapters of its own"):
        export(starting_model, str(alone), adapter=True)


def test_a_base_that_is_gone_or_changed_is_told(settings, starting_model):
    run = adapted(settings, starting_model, steps=2)
    train(run)
    file = next(Path(starting_model, "checkpoints", "2", "params").rglob("*_METADATA"))
    file.touch()  # the same content at another time is the same model
    load_pretrained(run.output)
    content = file.read_bytes()
    file.write_bytes(content + b" ")
    with pytest.raises(AloeError, match="has changed since the adapters were trained on it"):
        load_pretrained(run.output)
    file.write_bytes(content)
    Path(starting_model).rename(starting_model + ".moved")
    with pytest.raises(AloeError, match=r"the adapters belong to .* which is not there"):
        load_pretrained(run.output)
    Path(run.output, "adapter.json").write_text("{}")
    with pytest.raises(AloeError, match=r"adapter\.json: not the description of adapters"):
        load_pretrained(run.output)


def test_adapters_need_a_model(settings):
    with pytest.raises(ValueError, match=r"model\.lora: adapters need a model to adapt"):
        settings(model={"lora": {"rank": 2}})
