"""A run whose data, tokenizer, output, reference and export all lie in a bucket."""

import json
import runpy
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from click.testing import CliRunner
from flax import nnx

from aloe_jax.errors import AloeError
from aloe_jax.evaluate import main as evaluate
from aloe_jax.models.opening import load_pretrained
from aloe_jax.models.run_directory import checkpoint_steps, is_finished
from aloe_jax.publishing.export import export
from aloe_jax.settings import dump_settings
from aloe_jax.training.run import train
from tests.forked import Process

IN_BUCKET = {"path": "gs://our-bucket/data/d.jsonl"}


@pytest.fixture
def bucket(bucket, material):
    for file in [*material["data"].parent.glob("*.jsonl"), *material["tokenizer"].iterdir()]:
        bucket.put(f"{'data' if file.suffix == '.jsonl' else 'tokenizer'}/{file.name}", file.read_bytes())
    return bucket


def parameters(path):
    return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(load_pretrained(path), nnx.Param)))


def test_a_killed_run_in_a_bucket_equals_an_undisturbed_one_on_a_disk(bucket, settings, tmp_path) -> None:
    steps = {"steps": 15, "evaluate_every": 10, "checkpoints": {"every": 4}, "optimizer": {"schedule": "cosine"}}
    local = settings(output="local", **steps)
    train(local)
    assert is_finished(local.output)

    there = settings(**steps, data=IN_BUCKET, model={"tokenizer": "gs://our-bucket/tokenizer"})
    there = there.model_copy(update={"output": "gs://our-bucket/runs/x"})
    file = tmp_path / "there.yaml"
    file.write_text(dump_settings(there))
    with pytest.raises(AloeError, match="no checkpoint; there are: none"):
        bucket.put("runs/x/spec.json", (Path(local.output) / "spec.json").read_bytes())
        load_pretrained(there.output)
    process = Process("aloe_jax.train", "--config", file)
    until = time.monotonic() + 240
    while not any(name.startswith("runs/x/checkpoints/8/") for name in bucket.names()):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.002)
    process.kill()  # in the middle of a save
    process.communicate()
    assert "runs/x/checkpoints/8/commit_success.txt" not in bucket.names(), "killed too late to show anything"
    assert checkpoint_steps(there.output) == [4] and not is_finished(there.output)

    train(there)
    assert is_finished(there.output) and json.loads(bucket.text("runs/x/finished.json")) == {"step": 15}
    assert "resuming after step 4" in bucket.text("runs/x/train.log")
    assert bucket.text("runs/x/metrics.jsonl") == (Path(local.output) / "metrics.jsonl").read_text()
    jax.tree.map(np.testing.assert_array_equal, parameters(there.output), parameters(local.output))
    assert any(name.startswith("runs/x/tensorboard/") for name in bucket.names())
    assert not list(tmp_path.glob("gs:*")) and not Path("gs:").exists()

    finished = runpy.run_path("tpu/finished.py")["main"]
    assert CliRunner().invoke(finished, ["--config", str(file)]).exit_code == 0
    assert CliRunner().invoke(finished, ["--config", str(file), "output=gs://our-bucket/runs/y"]).exit_code == 1

    # ---- export from the bucket into the bucket, twice, and load it from there
    for _ in range(2):
        export("gs://our-bucket/runs/x", "gs://our-bucket/exports/x")
    assert bucket.writes[-1] == "exports/x/config.json"
    jax.tree.map(np.testing.assert_array_equal, parameters("gs://our-bucket/exports/x"), parameters(local.output))
    with pytest.raises(AloeError, match="no export wrote"):
        bucket.put("exports/x/notes.txt", b"mine")
        export("gs://our-bucket/runs/x", "gs://our-bucket/exports/x")
    assert "exports/x/config.json" in bucket.names()

    # ---- DPO from there, with its reference in the bucket
    dpo = settings(stage="dpo", steps=2, data=IN_BUCKET, model={"path": "gs://our-bucket/exports/x", "tokenizer": None})
    dpo = dpo.model_copy(update={"output": "gs://our-bucket/runs/dpo"})
    train(dpo)
    parts = bucket.names("runs/reference-logps/")
    assert parts and is_finished(dpo.output)
    train(dpo.model_copy(update={"output": "gs://our-bucket/runs/dpo2"}))
    assert bucket.names("runs/reference-logps/") == parts  # found again
    train(dpo)  # complete already

    # ---- and both are scored, with the results in the bucket
    (scoring := tmp_path / "scoring.yaml").write_text(
        "output: gs://our-bucket/scores\ndata: gs://our-bucket/data/d.jsonl\nrow_length: 128\nbootstrap: 10\nlimit: 4\n"
        "models: {sft: gs://our-bucket/exports/x, dpo: gs://our-bucket/runs/dpo}\n"
    )
    done = CliRunner().invoke(evaluate, ["--preferences", "--config", str(scoring)])
    assert done.exit_code == 0, done.output
    assert {"scores/preferences.json", "scores/config.yaml"} <= set(bucket.names())


def test_a_bucket_that_may_not_be_written_is_refused_at_the_door(bucket, settings) -> None:
    bucket.refuse_after = 0
    with pytest.raises(AloeError, match=r"gs://our-bucket/runs/x/config.yaml: cannot be written"):
        train(settings(data=IN_BUCKET).model_copy(update={"output": "gs://our-bucket/runs/x"}))


def test_data_that_are_not_there_are_told_by_their_own_name(bucket, settings) -> None:
    with pytest.raises(AloeError, match=r"gs://our-bucket/none.jsonl: no such data set"):
        train(settings(data={"path": "gs://our-bucket/none.jsonl"}))
