"""tpu/run.sh against a stand-in gcloud: preemption, failures, Ctrl-C. Whatever happens, nothing is left running."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tpu.cloud import Cloud
from tests.tpu.gcloud import Fault

STAGES = {  # the call that is met there, and how many like it come before
    "requesting": ("queued-resources create", 0),
    "waiting": ("value(state.state)", 3),
    "uploading": ("code.tar.gz --project", 0),
    "secrets": ("queued-resources scp", 0),
    "installing": ("worker.sh install", 0),
    "launching": ("worker.sh start", 0),
    "watching": ("worker.sh state", 1),  # the first looks whether it runs already
    "looking for the end": ("finished.json", 1),
    "deleting": ("queued-resources delete", 0),
}


# A connection that fails now and then is no reason to give up a slice that was hard to get.
HARMLESS = ("watching", "looking for the end", "deleting")


def at(stage: str, what: str, times: int = 1) -> Fault:
    match, skip = STAGES[stage]
    return Fault(match, what, times, skip)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    secrets = tmp_path / "secrets.env"
    secrets.write_text("WANDB_API_KEY=hunter2hunter2\n")
    secrets.chmod(0o600)
    found = Cloud(tmp_path / "cloud", {"SECRETS_FILE": str(secrets)}, ("dpo.beta=0.05", "model.lora={rank: 16}"))
    found.stub("tar", "exit 0")  # packing all of this takes longer than the rest
    yield found
    found.server.shutdown()
    assert found.gcloud.mistakes == []


def test_runs_to_the_end_and_deletes_the_slice(cloud: Cloud) -> None:
    done = cloud.run("run")
    assert done.returncode == 0, done.stderr
    assert "gs://my-bucket/runs/aloe-test: complete" in done.stderr
    assert cloud.gcloud.slices == {} and cloud.gcloud.created == 1 and cloud.gcloud.started == [0]
    assert r"aloe_jax.train --config configs/demo/dpo.yaml output=gs://my-bucket/runs/aloe-test" in cloud.gcloud.job
    assert r"dpo.beta=0.05 model.lora=\{rank:\ 16\}" in cloud.gcloud.job  # quoted for the shell over there


@pytest.mark.parametrize("how", ["SUSPENDED", "PREEMPTED"])
def test_completes_after_three_preemptions(cloud: Cloud, how: str) -> None:
    cloud.gcloud.plan(steps=9, happens={2: how, 4: how, 7: how})
    done = cloud.run("run")
    assert done.returncode == 0, done.stderr
    assert cloud.gcloud.slices == {} and cloud.gcloud.created == 4
    assert cloud.gcloud.started == [0, 2, 4, 7]  # every start goes on from what was saved
    assert cloud.gcloud.called("storage cp /tmp", "code.tar.gz --project") == 1  # the code that began also resumes


@pytest.mark.parametrize("stage", ["installing", "launching", "secrets"])
def test_a_slice_lost_before_training_begins_is_asked_for_again(cloud: Cloud, stage: str) -> None:
    cloud.gcloud.plan(faults=[at(stage, "lose")])
    done = cloud.run("run")
    assert done.returncode == 0, done.stderr
    assert cloud.gcloud.slices == {} and cloud.gcloud.created == 2


def test_processes_that_a_signal_ended_are_started_again(cloud: Cloud) -> None:
    cloud.gcloud.plan(steps=6, happens={1: "exited 137", 2: "exited 0", 3: "idle"})
    done = cloud.run("run")
    assert done.returncode == 0, done.stderr
    assert cloud.gcloud.created == 1 and cloud.gcloud.started == [0, 1, 2, 3]


def test_but_not_for_ever(cloud: Cloud) -> None:
    cloud.gcloud.plan(steps=9, happens={n: "exited 137" for n in range(1, 9)})
    done = cloud.run("run", "RESTARTS=2")
    assert done.returncode == 1 and "ended 3 times without completing" in done.stderr
    assert cloud.gcloud.slices == {} and cloud.gcloud.started == [0, 1, 2]


def test_a_run_that_failed_ends_everything_and_shows_its_log(cloud: Cloud) -> None:
    cloud.gcloud.plan(steps=6, happens={2: "exited 1"})
    done = cloud.run("run")
    assert done.returncode == 1
    assert "host-0 | the end of the log" in done.stderr and "train failed" in done.stderr
    assert cloud.gcloud.slices == {} and cloud.gcloud.started == [0]


def test_a_machine_that_does_not_answer_for_long_is_given_up(cloud: Cloud) -> None:
    cloud.gcloud.plan(faults=[at("watching", "fail", 11)])
    done = cloud.run("run")
    assert done.returncode == 0, done.stderr
    assert "do not answer" in done.stderr and cloud.gcloud.created == 2 and cloud.gcloud.slices == {}


@pytest.mark.parametrize("stage", STAGES)
def test_an_error_at_any_stage_leaves_nothing(cloud: Cloud, stage: str) -> None:
    cloud.gcloud.plan(faults=[at(stage, "fail", 3)])
    done = cloud.run("run")
    assert cloud.gcloud.slices == {}
    assert done.returncode == (0 if stage in HARMLESS else 1), done.stderr


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "deleting"])
def test_ctrl_c_at_any_stage_leaves_nothing(cloud: Cloud, stage: str) -> None:
    cloud.gcloud.plan(faults=[at(stage, "hang")])
    done = cloud.interrupt("run")
    assert done.returncode == 130, done.stderr
    assert cloud.gcloud.slices == {}
    assert cloud.gcloud.created == (stage != "requesting")


def test_ctrl_c_does_not_end_the_deletion(cloud: Cloud) -> None:
    cloud.gcloud.plan(faults=[at("deleting", "slow")])
    assert cloud.interrupt("run").returncode == 0
    assert cloud.gcloud.slices == {} and cloud.gcloud.created == 1


def test_a_request_that_comes_through_after_ctrl_c_is_deleted(cloud: Cloud) -> None:
    cloud.gcloud.plan(faults=[at("requesting", "late")])
    done = cloud.interrupt("run", "POLL_SECONDS=0.5")
    assert done.returncode == 130 and cloud.gcloud.created == 1 and cloud.gcloud.slices == {}


def test_sigterm_deletes_too(cloud: Cloud) -> None:
    cloud.gcloud.plan(faults=[at("watching", "hang")])
    assert cloud.interrupt("run", number=signal.SIGTERM).returncode == 143
    assert cloud.gcloud.slices == {} and cloud.gcloud.created == 1


def test_keep_keeps(cloud: Cloud) -> None:
    cloud.gcloud.plan(faults=[at("watching", "hang")])
    assert cloud.interrupt("run", "--keep").returncode == 130
    assert list(cloud.gcloud.slices) == ["aloe-test"]


def test_a_second_run_takes_up_the_slice_and_the_process(cloud: Cloud) -> None:
    cloud.gcloud.plan(steps=9, faults=[at("watching", "hang")])
    cloud.interrupt("run", "--keep")
    before = cloud.gcloud.called("worker.sh install")
    done = cloud.run("run")
    assert done.returncode == 0, done.stderr
    assert "taking it up" in done.stderr
    assert cloud.gcloud.created == 1 and cloud.gcloud.started == [0] and cloud.gcloud.slices == {}
    assert cloud.gcloud.called("worker.sh install") == before  # the code under a running process is left alone


def test_a_complete_run_asks_for_no_slice(cloud: Cloud) -> None:
    assert cloud.run("run").returncode == 0
    done = cloud.run("run")
    assert done.returncode == 0 and "complete already" in done.stderr and cloud.gcloud.created == 1


def test_a_slice_of_another_kind_under_that_name_is_refused_and_left(cloud: Cloud) -> None:
    cloud.run("create")
    done = cloud.run("create", "ACCELERATOR_TYPE=v5litepod-8")
    assert done.returncode == 4 and "exists already as v5litepod-16" in done.stderr
    done = cloud.run("run", "ACCELERATOR_TYPE=v5litepod-8")
    assert done.returncode == 4 and list(cloud.gcloud.slices) == ["aloe-test"]  # it is not ours to delete


def test_a_deletion_that_is_refused_is_tried_again(cloud: Cloud) -> None:
    cloud.run("create")
    cloud.gcloud.plan(faults=[at("deleting", "fail", 3)])
    assert cloud.run("delete").returncode == 0 and cloud.gcloud.slices == {}


def test_a_deletion_that_never_works_is_told_loudly(cloud: Cloud) -> None:
    cloud.gcloud.plan(faults=[at("deleting", "fail", 99), at("installing", "hang")])
    done = cloud.interrupt("run")
    assert done.returncode == 1 and "COSTING MONEY" in done.stderr and "delete aloe-test" in done.stderr


def test_secrets_are_in_no_call(cloud: Cloud) -> None:
    assert cloud.run("run", "SECRETS=HF_TOKEN=my-token-name").returncode == 0
    assert "hunter2hunter2" not in str(cloud.gcloud.calls) and "from-secret-manager" not in str(cloud.gcloud.calls)
    assert cloud.gcloud.called("scp", "secrets.env", ".aloe-secrets.env", "--scp-flag=-p") == 1
    assert "SECRETS=HF_TOKEN=my-token-name" in cloud.gcloud.job  # a name, which the machine looks up


def test_several_slices(cloud: Cloud) -> None:
    cloud.gcloud.plan(steps=5, happens={2: "PREEMPTED"})
    done = cloud.run("run", "SLICES=2")
    assert done.returncode == 0, done.stderr
    assert cloud.gcloud.called("create", "--node-count=2", "--node-prefix=aloe-test") == 2
    assert cloud.gcloud.called("tpu-vm", "describe", "aloe-test-0") and cloud.gcloud.slices == {}
