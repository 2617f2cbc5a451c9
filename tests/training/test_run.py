"""Whole runs in this process: what they leave behind, compiles, meshes, and what they refuse."""

import json
import math
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from aloe_jax.errors import AloeError
from aloe_jax.models.opening import load_pretrained
from aloe_jax.models.run_directory import checkpoint_steps
from aloe_jax.settings import load_settings
from aloe_jax.training import program, start
from aloe_jax.training.run import train
from aloe_jax.training.settings import TrainSettings
from tests.compilations import compilations
from tests.training.conftest import write_data


def records(settings, kind="train"):
    lines = (json.loads(line) for line in Path(settings.output, "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def params(path):
    return nnx.to_pure_dict(nnx.state(load_pretrained(path), nnx.Param))


def test_sft_then_dpo(settings, starting_model, capsys):
    sft = settings(steps=10, optimizer={"schedule": "cosine"})
    train(sft)
    losses = [record["loss"] for record in records(sft)]
    assert len(losses) == 10 and losses[-1] < losses[0] - 0.5
    assert [record["step"] for record in records(sft, "validation")] == [3, 6, 9, 10]
    assert load_settings(TrainSettings, f"{sft.output}/config.yaml") == sft
    assert {"spec.json", "tokenizer", "tensorboard"} <= {p.name for p in Path(sft.output).iterdir()}

    dpo = settings(
        "dpo", "dpo", model={"path": sft.output, "tokenizer": None}, steps=8, optimizer={"learning_rate": 3e-3}
    )
    train(dpo)
    first, *_, last = records(dpo)
    np.testing.assert_allclose(first["loss"], math.log(2), rtol=1e-5)  # policy and reference are still the same
    assert last["loss"] < first["loss"] and last["accuracy"] > 0.5
    told = capsys.readouterr().out
    assert "step 10/10 | loss" in told and "pairs/s" in told and "margin" in told

    # A second time: nothing to do, nothing changed.
    before = records(dpo)
    train(dpo)
    assert "complete at step 8" in capsys.readouterr().out
    assert records(dpo) == before


def test_one_compile_per_row_shape(settings, starting_model, monkeypatch):
    counts = Counter()

    def counted(name, make, *args, **options):
        step = make(*args, **options)

        def run(*inputs):
            with compilations() as compiled:
                outputs = step(*inputs)
            counts[name] += compiled.total()
            return outputs

        return run

    for name in ("train_step", "evaluation_step", "logps_step"):
        monkeypatch.setattr(program, name, partial(counted, name, getattr(program, name)))
    dpo = settings("dpo", "dpo", model={"path": starting_model, "tokenizer": None}, steps=None, epochs=4)
    train(dpo)
    assert len(records(dpo)) == 4
    assert counts["train_step"] == counts["evaluation_step"] == 1
    assert 1 <= counts["logps_step"] <= 2  # the rows of the two splits have two shapes


@pytest.mark.parametrize("mesh", [{"data": 2, "fsdp": 2, "tensor": 2}, {"data": 8, "fsdp": 1}])
def test_meshes_agree(settings, starting_model, mesh):
    model = {"path": starting_model, "tokenizer": None}
    one = settings("dpo", "one", model=model, steps=3)
    other = settings("dpo", "other", model=model, steps=3, mesh=mesh)
    train(one)
    train(other)
    for left, right in zip(records(one), records(other), strict=True):
        np.testing.assert_allclose(left["loss"], right["loss"], rtol=1e-5)
        np.testing.assert_allclose(left["grad_norm"], right["grad_norm"], rtol=1e-4)


def test_resuming_on_another_mesh(settings):
    decaying = {"optimizer": {"schedule": "cosine"}}
    whole, part = settings(output="whole", **decaying), settings(output="part", **decaying)
    train(whole)
    shutil.copytree(whole.output, part.output)
    shutil.rmtree(f"{part.output}/checkpoints/6")
    Path(part.output, "finished.json").unlink()
    assert checkpoint_steps(part.output) == [4]
    train(settings(output="part", mesh={"data": 2, "fsdp": 2, "tensor": 2}, **decaying))
    np.testing.assert_allclose(records(whole)[-1]["loss"], records(part)[-1]["loss"], rtol=1e-5)


def test_reference_logps_are_reused(settings, starting_model, capsys):
    dpo = settings("dpo", "dpo", model={"path": starting_model, "tokenizer": None}, steps=2)
    train(dpo)
    assert "reference log-probs, train: " in capsys.readouterr().out
    shutil.rmtree(f"{dpo.output}/checkpoints")
    train(dpo)
    assert "reference log-probs" not in capsys.readouterr().out


def refused(settings, told):
    with pytest.raises(AloeError, match=told) as caught:
        train(settings)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_refused_before_the_model_is_built(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(start, "build_model", lambda *_: pytest.fail("the model was built"))
    refused(settings(data={"path": str(tmp_path / "none.jsonl")}), "none.jsonl")
    refused(settings(output="a", data={"rows": 6}), r"data.rows: 6 rows a step cannot be split over 8 devices")
    refused(settings(output="b", mesh={"data": 3, "fsdp": 1}), "mesh: data 3 x fsdp 1 x tensor 1 needs 3 devices")
    refused(settings(output="c", data={"row_length": 12}), "data.row_length: none of 18 trees fits a row of 12 tokens")
    refused(
        settings(output="d", model={"architecture": {"max_length": 30}}),
        "data.row_length: the longest conversation has [0-9]+ tokens on one path, the model's maximum is 30",
    )
    (tmp_path / "empty.jsonl").write_text("")
    refused(settings(output="e", data={"path": str(tmp_path / "empty.jsonl")}), "empty.jsonl")


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(settings, starting_model, tmp_path):
    from aloe_jax.data.tokenizer import train_tokenizer

    train_tokenizer([f"word{i} other{i}" for i in range(200)], 800, tmp_path / "large")
    model = {"path": starting_model, "tokenizer": str(tmp_path / "large")}
    refused(
        settings("dpo", "dpo", model=model),
        r"model.tokenizer: the tokenizer has [0-9]+ tokens, but the model's vocabulary has",
    )


def test_another_run_in_the_same_directory_is_refused(settings, material, tmp_path):
    train(settings(steps=2))
    refused(settings(steps=2, seed=5), r"config.yaml: this run has seed: 0, now it would be 5; give another output")
    refused(settings(steps=2, optimizer={"learning_rate": 1.0}), "this run has optimizer.learning_rate: 0.01")
    # The data changed under the run: the same path, other conversations.
    copy = tmp_path / "moved"
    copy.mkdir()
    for name in ("d.jsonl", "d.validation.jsonl"):
        shutil.copy(material["data"].parent / name, copy / name)
    changed = settings(output="changed", steps=4, data={"path": str(copy / "d.jsonl")})
    train(changed)
    shutil.rmtree(f"{changed.output}/checkpoints/4")
    write_data(copy, count=28)
    refused(changed, "the data changed since step 2 was saved")


def test_a_checkpoint_of_another_model_is_refused(settings):
    small, large = (
        settings(output="small", steps=2),
        settings(output="large", steps=2, model={"architecture": {"width": 32}}),
    )
    train(small)
    train(large)
    shutil.rmtree(f"{small.output}/checkpoints/2")
    shutil.copytree(f"{large.output}/checkpoints/2", f"{small.output}/checkpoints/2")
    with pytest.raises(AloeError, match=r"checkpoints/2/params: .* it is a checkpoint of another model"):
        load_pretrained(small.output)
    refused(settings(output="small", steps=2).model_copy(update={"steps": None, "epochs": 9}), "this run has")


def test_a_loss_that_is_not_finite_names_its_conversations(settings):
    broken = settings(
        steps=40,
        evaluate_every=40,
        optimizer={"learning_rate": 1e3, "weight_decay": 1e3, "warmup_steps": 0, "clip_norm": 1e9},
    )
    refused(broken, r"nonfinite-[0-9]+.json: the loss or gradient of step [0-9]+ is not finite")
    (path,) = Path(broken.output).glob("nonfinite-*.json")
    assert all(name.startswith("c") for name in json.loads(path.read_text())["trees"])


def test_a_disk_without_room_is_told_before_the_first_step(settings, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    refused(settings(), "checkpoints: a checkpoint takes .* MiB and 0.0 MiB are free; finished checkpoints: none")


def test_dry_run_writes_nothing(settings, tmp_path, capsys):
    before = set(tmp_path.iterdir())
    train(settings(), dry_run=True)
    assert set(tmp_path.iterdir()) == before
    told = capsys.readouterr().out
    assert "parameters, 2 layers" in told and "6 steps" in told and "GiB a device" in told
