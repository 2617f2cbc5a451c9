"""One run in two real processes with four devices each: the losses of one process with eight."""

import json
import os
import re
import signal
import socket
from pathlib import Path

import numpy as np
import pytest

from aloe_jax.models.run_directory import checkpoint_steps
from aloe_jax.settings import dump_settings
from aloe_jax.training.run import train
from tests.forked import Process

DEVICES = "--xla_force_host_platform_device_count="
FOUR = {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace(f"{DEVICES}8", f"{DEVICES}4"), "PYTHONUNBUFFERED": "1"}
# The library under JAX's collectives on CPUs tells of its connections on the standard output, from several threads and
# piece by piece, so that its lines mix.
GLOO = re.compile(r"\[Gloo\] Rank|is connected to|peer ranks\.|Expected number of connected|peer ranks is :|\d+")


def launch(settings, tmp_path, **environment):
    """The same command twice, as on two hosts; returns both processes."""
    path = tmp_path / f"{Path(settings.output).name}.yaml"
    path.write_text(dump_settings(settings))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    both = os.environ | FOUR | {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"} | environment
    return [
        Process("aloe_jax.train", "--config", path, env=both | {"JAX_PROCESS_ID": str(index)}) for index in range(2)
    ]


def finish(processes):
    told = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(each for pair in told for each in pair)
    return told


def records(settings):
    return [json.loads(line) for line in Path(settings.output, "metrics.jsonl").read_text().splitlines()]


def same_losses(left, right):
    left, right = records(left), records(right)
    assert [(row["step"], row["kind"]) for row in left] == [(row["step"], row["kind"]) for row in right]
    for one, other in zip(left, right, strict=True):
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-5)
        if "grad_norm" in one:
            np.testing.assert_allclose(one["grad_norm"], other["grad_norm"], rtol=1e-4)


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param({"data": 2, "fsdp": 4}, id="rows", marks=pytest.mark.soak),
        pytest.param({"data": 1, "fsdp": 2, "tensor": 4}, id="tensor", marks=pytest.mark.soak),
    ],
)
def test_undisturbed_processes_give_the_losses_of_one(settings, starting_model, tmp_path, mesh):
    model = {"path": starting_model, "tokenizer": None}
    one = settings("dpo", "one", model=model, mesh=mesh)
    two = settings("dpo", "two", model=model, mesh=mesh, dpo={"reference_cache": str(tmp_path / "two-reference")})
    train(one)
    (told, _), (silent, _) = finish(launch(two, tmp_path))
    same_losses(one, two)
    assert "step 6/6 | loss" in told and not GLOO.sub("", silent).split()
    assert len(list((tmp_path / "two-reference").rglob("part-*.npz"))) == 2  # one a split, written once


@pytest.mark.parametrize("stage", [pytest.param("sft", marks=pytest.mark.soak), "dpo"])
def test_a_signal_to_one_process_stops_and_saves_both_and_they_resume(settings, starting_model, tmp_path, stage):
    changes = {
        "steps": 30, "log_every": 1, "evaluate_every": 30, "checkpoints": {"every": 30},
        "optimizer": {"schedule": "cosine"},
    }  # fmt: skip
    if stage == "dpo":
        changes["model"] = {"path": starting_model, "tokenizer": None}
    whole, part = settings(stage, output="whole", **changes), settings(stage, output="part", **changes)
    if stage == "dpo":
        part = part.model_copy(update={"dpo": part.dpo.model_copy(update={"reference_cache": str(tmp_path / "logps")})})
    train(whole)
    processes = launch(part, tmp_path)
    for line in processes[0].stdout:
        if line.startswith("step 5/"):
            break
    processes[1].send_signal(signal.SIGTERM)
    (told, _), (silent, _) = finish(processes)
    assert not GLOO.sub("", silent).split()
    assert "stopped by SIGTERM: saved at step" in told
    (saved,) = checkpoint_steps(part.output)
    assert 5 <= saved < 30
    (told, _), _ = finish(launch(part, tmp_path))
    assert f"resuming after step {saved}" in told
    if stage == "dpo":
        assert len(list((tmp_path / "logps").rglob("part-*.npz"))) == 2  # one a split, written once
    same_losses(whole, part)


def test_half_an_environment_is_refused(settings, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(dump_settings(settings()))
    for environment, told in (
        ({"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1"}, "JAX_NUM_PROCESSES, JAX_PROCESS_ID: not set, though"),
        (
            {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            "JAX_PROCESS_ID: 2 is not one of the 2 processes",
        ),
    ):
        process = Process("aloe_jax.train", "--config", path, env=os.environ | environment)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1 and told in errors, errors
        assert not Path(settings().output).exists()
