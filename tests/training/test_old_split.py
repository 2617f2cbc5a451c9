"""A run that was begun before whole profiles were held out goes on with what it trained on, or not at all."""

import shutil
from pathlib import Path

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.training.run import train
from tests.conversations import conversation


def test_a_run_with_the_old_split_never_changes_what_it_trains_on(settings, tmp_path, capsys):
    talks = [conversation(1 + k % 3, f"c{k}", profile=k % 8) for k in range(32)]
    (tmp_path / "own.jsonl").write_text("".join(f"{talk.to_json()}\n" for talk in talks))

    def run(**by):
        data = {"path": str(tmp_path / "own.jsonl"), "validation_fraction": 0.2, **by}
        return settings(output="old", steps=4, data=data)

    train(run(validation_by="conversation"))
    made = Path(run().output)
    log = (made / "train.log").read_text()
    assert "held out" not in log.partition("people: ")[0] and "profiles are in training too (its loss" in log
    # As it was when a run could not say how it was divided, stopped at half way.
    config = made / "config.yaml"
    config.write_text("".join(line for line in config.open() if "validation_by" not in line))
    shutil.rmtree(made / "checkpoints/4")
    (made / "finished.json").unlink(missing_ok=True)
    for _ in range(2):  # the refusal leaves nothing behind that would bind the run to the new split
        with pytest.raises(AloeError, match=r"the data changed since .*goes on with data\.validation_by=conversation$"):
            train(run())
    capsys.readouterr()
    train(run(validation_by="conversation"))
    assert "resuming after step 2" in capsys.readouterr().out
    fresh = settings(output="fresh", steps=2, data={"path": str(tmp_path / "own.jsonl"), "validation_fraction": 0.2})
    train(fresh)
    log = Path(fresh.output, "train.log").read_text()
    assert "people: 0 of " in log and "1 of 1 personality is in training too" in log
