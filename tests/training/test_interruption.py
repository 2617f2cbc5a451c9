"""Real processes, really killed: a run that was interrupted equals the one that was not, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from aloe_jax.models.opening import load_pretrained
from aloe_jax.models.run_directory import checkpoint_steps
from aloe_jax.settings import dump_settings
from tests.forked import Process

ONE_DEVICE = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0", "PYTHONUNBUFFERED": "1"}
STEPS = 40


def config(settings, tmp_path):
    path = tmp_path / f"{Path(settings.output).name}.yaml"
    path.write_text(dump_settings(settings))
    return str(path)


def launch(settings, tmp_path):
    return Process("aloe_jax.train", "--config", config(settings, tmp_path), env=ONE_DEVICE)


def started(settings, tmp_path, prefix=()):
    """A process that is not forked: with a hash seed of its own, or what a prefix has it run in."""
    command = [*prefix, sys.executable, "-m", "aloe_jax.train", "--config", config(settings, tmp_path)]
    return subprocess.Popen(command, env=ONE_DEVICE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    told = "".join(process.communicate(timeout=120))
    return process.returncode, told


def wait_for_step(process, step):
    told = []
    for line in process.stdout:
        told.append(line)
        if line.startswith(f"step {step}/"):
            return
    pytest.fail("the run ended early:\n" + "".join(told))


def outcome(settings):
    lines = [json.loads(line) for line in Path(settings.output, "metrics.jsonl").read_text().splitlines()]
    return lines, jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(load_pretrained(settings.output), nnx.Param)))


def same(left, right):
    assert left[0] == right[0]
    jax.tree.map(np.testing.assert_array_equal, left[1], right[1])


def kill_in_a_save(process, output, patience=60.0):
    """SIGKILL as soon as a checkpoint is half written; returns whether the run was still going."""
    checkpoints, end = Path(output, "checkpoints"), time.monotonic() + patience
    while process.poll() is None and time.monotonic() < end:
        if any(checkpoints.glob("*orbax-checkpoint-tmp*")):
            process.kill()
            return True
        time.sleep(0.001)
    return False


def test_killed_and_stopped_runs_equal_an_undisturbed_one(settings, tmp_path):
    changes = {
        "steps": STEPS, "evaluate_every": 20, "checkpoints": {"every": 5}, "optimizer": {"schedule": "cosine"}
    }  # fmt: skip
    whole = settings(output="whole", **changes)
    status, told = finish(started(whole, tmp_path))
    assert status == 0, told
    expected = outcome(whole)
    assert [line["step"] for line in expected[0] if line["kind"] == "train"] == list(range(1, STEPS + 1))

    part = settings(output="part", **changes)
    process = launch(part, tmp_path)
    wait_for_step(process, 12)
    assert kill_in_a_save(process, part.output)
    finish(process)
    process = launch(part, tmp_path)
    wait_for_step(process, 22)
    process.send_signal(signal.SIGTERM)
    status, told = finish(process)
    assert status == 0 and "stopped by SIGTERM: saved at step" in told, told
    assert checkpoint_steps(part.output)[-1] >= 22
    status, told = finish(launch(part, tmp_path))
    assert status == 0 and "resuming after step" in told, told
    same(outcome(part), expected)


@pytest.mark.soak
def test_ten_kills_some_in_the_middle_of_a_save_change_nothing(settings, tmp_path):
    changes = {"steps": 150, "evaluate_every": 50, "checkpoints": {"every": 3}, "log_every": 1}
    changes["optimizer"] = {"schedule": "cosine"}
    whole, part = settings(output="whole", **changes), settings(output="part", **changes)
    status, told = finish(started(whole, tmp_path))
    assert status == 0, told
    random, in_a_save, kills = np.random.default_rng(0), 0, 0
    while kills < 10:
        process = launch(part, tmp_path)
        if kills % 2:
            # From the second save on, so that every life gets somewhere.
            before = len(checkpoint_steps(part.output))
            while process.poll() is None and len(checkpoint_steps(part.output)) < before + 1 and before < 2:
                time.sleep(0.001)
            in_a_save += kill_in_a_save(process, part.output)
        else:
            time.sleep(random.uniform(1.0, 6.0))
            process.kill()
        finish(process)
        kills += 1
        assert process.returncode == -signal.SIGKILL, "the run ended before it was killed: give it more steps"
    assert in_a_save == 5
    status, told = finish(launch(part, tmp_path))
    assert status == 0 and "resuming after step" in told, told
    same(outcome(part), outcome(whole))


def test_a_full_disk_while_saving_is_one_line_and_the_same_command_goes_on(settings, tmp_path):
    """No file may grow beyond a few KiB: what a full disk looks like to the writer of a checkpoint."""
    wider = {"layers": 2, "width": 64, "query_heads": 2, "kv_heads": 2, "feed_forward": 32, "max_length": 256}
    changes = {"steps": 4, "checkpoints": {"every": 2}, "model": {"architecture": wider}}
    run = settings(output="run", **changes)
    limit = ("bash", "-c", 'ulimit -f 40; exec "$@"', "bash")
    status, told = finish(started(run, tmp_path, limit))
    assert status == 1, told
    last = told.splitlines()[-1]  # before it, writing threads may have told their part
    assert last.startswith("Error: ") and "saving failed" in last and "free some space" in last, told
    assert checkpoint_steps(run.output) == []
    assert finish(launch(run, tmp_path))[0] == 0  # room again: the same command goes on
    assert checkpoint_steps(run.output) == [2, 4]
