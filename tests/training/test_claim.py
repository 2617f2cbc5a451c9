"""One run a directory, under way from real processes."""

import re
import signal
from pathlib import Path

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.settings import load_settings
from aloe_jax.training.checkpoint import Checkpoints
from aloe_jax.training.claim import claim_directory, differences
from aloe_jax.training.run import train
from aloe_jax.training.settings import CheckpointSettings, TrainSettings
from tests.training.test_interruption import finish, launch, wait_for_step


def test_a_second_run_in_one_output_is_refused_and_a_kill_lifts_the_lock(settings, tmp_path):
    changes = {"steps": 1_000_000, "evaluate_every": 1_000_000, "checkpoints": {"every": 5}, "log_every": 1}
    made = settings(output="part", **changes)
    first = launch(made, tmp_path)
    wait_for_step(first, 4)
    status, message = finish(launch(made, tmp_path))
    assert status == 1 and "Traceback" not in message
    line = message.splitlines()[-1]
    assert re.fullmatch(
        rf"Error: {re.escape(made.output)}: another process is training into it \(process {first.pid} on \S+\); "
        "wait for it, stop it, or give another output",
        line,
    )
    with pytest.raises(AloeError, match=f"process {first.pid} on"):
        Checkpoints(tmp_path / "part", CheckpointSettings(), {})  # which would delete a save under way
    wait_for_step(first, 12)  # undisturbed
    first.send_signal(signal.SIGKILL)
    finish(first)
    third = launch(made, tmp_path)
    message = next(line for line in third.stdout if line.startswith(("resuming", "starting", "Error")))
    assert message.startswith("resuming after step"), message
    third.send_signal(signal.SIGTERM)
    assert finish(third)[0] == 0


def test_an_output_that_is_a_file(settings, tmp_path):
    (tmp_path / "file").write_text("x")
    for output in ("file", "file/below"):
        with pytest.raises(
            AloeError, match=r"cannot be made \((is a file, not a directory|Not a directory)\); give another output"
        ):
            train(settings(output=output))


def checkpoint(run, step=2):
    """As far as claims look at one."""
    (run / "checkpoints" / str(step) / "params").mkdir(parents=True)


def test_a_start_that_was_refused_or_left_no_checkpoint_binds_nobody(settings):
    made = settings(steps=2, data={"row_length": 8})
    with pytest.raises(AloeError, match=r"data\.row_length"):
        train(made)
    saved = Path(made.output, "config.yaml")
    assert load_settings(TrainSettings, saved).data.row_length == 8
    other = settings(steps=2)
    claim_directory(other)
    assert load_settings(TrainSettings, saved) == other
    train(other)
    with pytest.raises(AloeError, match=r"this run has data\.row_length: 128, now it would be 8"):
        train(made)
    assert load_settings(TrainSettings, saved) == other


def test_the_first_setting_that_differs_is_the_first_in_order(settings):
    made = settings()
    claimed = claim_directory(made)
    assert claimed.name == "run"
    checkpoint(claimed)
    other = settings(seed=3, steps=9, data={"row_length": 64}, optimizer={"learning_rate": 1.0, "b1": 0.5})
    for _ in range(3):
        with pytest.raises(AloeError, match=r"this run has seed: 0, now it would be 3"):
            claim_directory(other)
    assert list(differences(made.model_dump(), other.model_dump())) == [
        "seed", "steps", "data.row_length", "optimizer.learning_rate", "optimizer.b1",
    ]  # fmt: skip


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("name", ["config.json", "adapter_config.json", "dataset_info.json", "digests.json"])
def test_no_run_mixes_with_a_model_or_a_data_set(settings, tmp_path, name, dry):
    other = tmp_path / "other"
    other.mkdir()
    (other / name).write_text("{}")
    with pytest.raises(AloeError, match=f"holds {name}, so it is a model or a data set and no run"):
        train(settings(output="other"), dry)
    assert [file.name for file in other.iterdir()] == [name] and (other / name).read_text() == "{}"
