"""Damaged checkpoints: one line that names the file and what to go on from, and following it works."""

import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from aloe_jax.errors import AloeError
from aloe_jax.models.opening import load_pretrained, load_run
from aloe_jax.models.run_directory import checkpoint_steps
from aloe_jax.publishing.export import export
from aloe_jax.storage.integrity import DIGESTS
from aloe_jax.training.checkpoint import Checkpoints
from aloe_jax.training.run import train
from aloe_jax.training.settings import CheckpointSettings
from tests.training.conftest import trained


def params(path, step=None):
    return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(load_run(path, step=step), nnx.Param)))


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def empty(file):
    file.write_bytes(b"")


def largest(directory):
    return max((file for file in directory.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)


@pytest.fixture
def run(settings, material):
    """Settings of a run that stopped after step 4 of 6, with checkpoints 2 and 4."""
    made = trained(settings(output="run"), material)
    shutil.rmtree(Path(made.output, "checkpoints", "6"))
    Path(made.output, "finished.json").unlink()
    assert checkpoint_steps(made.output) == [4]
    return made


# With a rate that tells steps apart.
EIGHT = {"checkpoints": {"every": 2, "keep": 5}, "steps": 8, "optimizer": {"schedule": "cosine"}}


@pytest.fixture
def two(settings, material):
    """The same with checkpoints 2, 4 and 6, the last of which is the newest."""
    made = trained(settings(output="two", **EIGHT), material)
    shutil.rmtree(Path(made.output, "checkpoints", "8"))
    Path(made.output, "finished.json").unlink()
    return made


def refused(call, *message):
    with pytest.raises(AloeError) as caught:
        call()
    assert "\n" not in str(caught.value)
    for each in message:
        assert each in str(caught.value), str(caught.value)


def test_damage_of_every_part_names_the_file_and_the_older_step(two, settings, material):
    whole = trained(settings(output="whole", **EIGHT), material)
    newest = Path(two.output, "checkpoints", "6")
    parts = [
        (newest / "params" / "_METADATA", empty, True),
        (largest(newest / "params"), flip, True),
        (largest(newest / "optimizer"), flip, False),
        (newest / "optimizer" / "_METADATA", empty, False),
        (newest / "position" / "metadata", cut, False),
        (newest / "params" / "manifest.ocdbt", Path.unlink, True),
    ]
    for file, damaged, loaded in parts:
        content = file.read_bytes()
        damaged(file)
        advice = f"delete {newest} to go on from step 4"
        refused(lambda: train(two), str(file), advice)
        if loaded:
            refused(lambda: load_pretrained(two.output), str(file), advice)
            refused(lambda: export(two.output, two.output + "-export"), str(file), advice)
        else:  # a model is made of the parameters alone
            params(two.output)
        file.write_bytes(content)
    assert checkpoint_steps(two.output) == [2, 4, 6]  # nothing was thrown away
    flip(largest(newest / "params"))
    flip(largest(newest.with_name("4") / "params"))
    refused(lambda: train(two), f"delete {newest} to go on from step 2")
    shutil.rmtree(newest)
    refused(lambda: train(two), f"delete {newest.with_name('4')} to go on from step 2")
    shutil.rmtree(newest.with_name("4"))
    train(two)
    jax.tree.map(np.testing.assert_array_equal, params(two.output), params(whole.output))


@pytest.mark.parametrize("name", ["manifest.ocdbt", "_METADATA", "commit_success.txt"])
def test_files_of_two_checkpoints_that_changed_places(two, name):
    """Of equal length, and the manifests of equal CRC-32C."""
    newest, older = (Path(two.output, "checkpoints", step, "params", name) for step in ("6", "4"))
    mine, theirs = newest.read_bytes(), older.read_bytes()
    newest.write_bytes(theirs)
    older.write_bytes(mine)
    if mine == theirs:
        params(two.output)
    else:
        refused(lambda: load_pretrained(two.output), str(newest), f"delete {newest.parents[1]} to go on from step 2")


def test_digests_of_another_directory_verify_nothing(two):
    newest = Path(two.output, "checkpoints", "6", DIGESTS)
    shutil.copy(Path(two.output, DIGESTS), newest)
    refused(lambda: load_pretrained(two.output), f"{newest} lists no files of params", "to go on from step 4")


def test_the_only_checkpoint(run):
    step = Path(run.output, "checkpoints", "4")
    flip(largest(step / "optimizer"))
    refused(lambda: train(run), "no older checkpoint is whole", f"restore {step} from a copy, or delete it to begin")
    shutil.rmtree(step)
    train(run)


def test_a_finished_run_whose_last_checkpoint_is_damaged_is_not_called_complete(settings):
    made = settings(steps=4)
    train(made)
    flip(largest(Path(made.output, "checkpoints", "4", "params")))
    refused(lambda: train(made), "to go on from step 2")


def test_the_loss_of_an_older_checkpoint_by_which_the_best_is_kept(two):
    scores = next(Path(two.output, "checkpoints").glob("*/metrics/metrics"))
    scores.write_text('{"validation_los')
    refused(lambda: train(two), str(scores), f"delete {scores.parents[1]} to go on without it")


def test_checkpoints_of_earlier_versions_load_and_go_on_with_a_note(two, capsys):
    before = params(two.output, 6)
    for step in (2, 4, 6):
        Path(two.output, "checkpoints", str(step), DIGESTS).unlink()
    Path(two.output, DIGESTS).unlink()
    Path(two.output, "base.json").unlink()
    capsys.readouterr()
    jax.tree.map(np.testing.assert_array_equal, params(two.output), before)
    assert "checkpoints/6: has no digests of its files, so that they cannot be verified" in capsys.readouterr().err
    metadata = Path(two.output, "checkpoints", "6", "params", "_METADATA")
    content = metadata.read_bytes()
    metadata.write_bytes(b"")
    refused(lambda: load_pretrained(two.output), "checkpoints/6: cannot be read", "to go on from step 4")
    refused(lambda: train(two), "checkpoints/6: cannot be read", "to go on from step 4")
    metadata.write_bytes(content)
    train(two)
    assert Path(two.output, "checkpoints", "8", DIGESTS).exists()


@pytest.mark.parametrize("left", [[], ["position"], ["position", "optimizer"]])
def test_a_checkpoint_without_parameters_is_not_waited_for(tmp_path, left):
    run = tmp_path / "run"
    (run / "checkpoints" / "2" / "params").mkdir(parents=True)
    newest = run / "checkpoints" / "4"
    newest.mkdir()
    for name in left:
        (newest / name).write_text("{}")
    with Checkpoints(run, CheckpointSettings(every=2), {}) as checkpoints:
        refused(lambda: checkpoints.position(4), str(newest), f"delete {newest} to go on from step 2")


def test_checkpoints_that_are_no_directory_are_found_out_at_the_start(tmp_path):
    for name, make in {
        "file": lambda path: path.write_text("x"),
        "link": lambda path: path.symlink_to("/nowhere/at/all"),
        "pipe": os.mkfifo,
    }.items():
        run = tmp_path / name
        run.mkdir()
        make(run / "checkpoints")
        refused(lambda run=run: Checkpoints(run, CheckpointSettings(every=2), {}), str(run / "checkpoints"), "output")


def test_a_checkpoint_under_the_name_of_another(two):
    checkpoints = Path(two.output, "checkpoints")
    shutil.rmtree(checkpoints / "6")
    shutil.copytree(checkpoints / "2", checkpoints / "6")
    refused(lambda: train(two), "does not say that it was saved at step 6", "to go on from step 4")


def test_what_describes_the_model_is_covered_too(run):
    for name in ("spec.json", "tokenizer/tokenizer.json"):
        file = Path(run.output, name)
        content = file.read_text()
        file.write_text(content.replace("1", "2", 1))
        refused(lambda: load_pretrained(run.output), str(file), "restore it, or delete")
        file.write_text(content)
    train(run)  # which describes it anew
    params(run.output)


def test_weights_that_are_not_finite_are_never_used(run):
    """As an earlier version may have saved them."""
    step = Path(run.output, "checkpoints", "4")
    with ocp.StandardCheckpointer() as checkpointer:
        values = checkpointer.restore(step / "params")
        values["final_norm"] = jnp.asarray(values["final_norm"]).at[0].set(jnp.nan)
        checkpointer.save(step / "params", values, force=True)
    (step / DIGESTS).unlink()
    refused(lambda: load_pretrained(run.output), "checkpoints/4/params: final_norm has values that are not finite")
    refused(lambda: export(run.output, run.output + "-export"), "final_norm has values that are not finite")
    refused(lambda: train(run), "params.final_norm has values that are not finite")
    assert not Path(run.output + "-export").exists()


def test_a_diverging_run_keeps_what_it_saved_before(settings):
    wild = {"learning_rate": 1e3, "weight_decay": 1e3, "clip_norm": 1e9, "warmup_steps": 0, "schedule": "constant"}
    often = {"every": 1, "keep": 9}
    made = settings(optimizer=wild, steps=40, checkpoints=often, log_every=1, evaluate_every=40)
    refused(lambda: train(made), "is not finite", "run again from the last checkpoint")
    (named,) = Path(made.output).glob("nonfinite-*.json")
    saved = checkpoint_steps(made.output)
    # All steps before the one that failed, but for those whose update made the state infinite.
    assert saved and saved[-1] >= json.loads(named.read_text())["step"] - 2
    for step in saved:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params(made.output, step)))

    # Where the losses are looked at more seldom, the validation tells.
    failed = json.loads(named.read_text())["step"]
    seldom = {"log_every": 50, "evaluate_every": failed, "checkpoints": {"every": 50}}
    last = settings(output="last", optimizer=wild, steps=40, **seldom)
    refused(lambda: train(last), f"the validation loss after step {failed} is nan", "not saved")
    assert not Path(last.output, "finished.json").exists() and not checkpoint_steps(last.output)


@pytest.mark.parametrize("part", ["params", "optimizer"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_finite_is_not_saved(tmp_path, part, value):
    good = {"params": {"w": jnp.ones(3)}, "optimizer": {"mu": {"w": jnp.ones(3)}, "count": jnp.int32(1)}}
    bad = jax.tree.map(lambda leaf: leaf, good)
    {"params": bad["params"], "optimizer": bad["optimizer"]["mu"]}[part]["w"] = jnp.array([1.0, value, 1.0])
    with Checkpoints(tmp_path, CheckpointSettings(), {"w": (3,)}) as checkpoints:
        checkpoints.save(1, good, {"step": 1, "fingerprint": {}}, None)
        where = f"after step 2 {part}.{'mu.' if part == 'optimizer' else ''}w has values that are not finite"
        refused(
            lambda: checkpoints.save(2, bad, {"step": 2, "fingerprint": {}}, None), where, "finished checkpoints: 1"
        )
    assert checkpoint_steps(tmp_path) == [1]


def test_an_error_and_a_second_signal_wait_for_the_save_under_way(settings, monkeypatch):
    real = Checkpoints.save
    for number, error in enumerate((KeyboardInterrupt(), OSError(5, "Input/output error"), RuntimeError("defect"))):

        def save(self, step, *rest, error=error):
            real(self, step, *rest)
            raise error  # while the save is written in the background

        monkeypatch.setattr(Checkpoints, "save", save)
        made = settings(output=f"run{number}")
        with pytest.raises(AloeError if isinstance(error, OSError) else type(error)):
            train(made)
        assert checkpoint_steps(made.output) == [2]
        assert Path(made.output, "checkpoints", "2", DIGESTS).exists()
        params(made.output)
