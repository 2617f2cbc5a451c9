"""What else of a sweep is looked at before its first run starts: everybody who is asked, and the meshes."""

import json
import os
import subprocess
import sys

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.sweep.checks import check_plan
from aloe_jax.sweep.plan import plan_of
from tests.sweep.lines import settings

NO_MODEL = {"provider": "openai", "endpoint": "http://localhost:1"}


@pytest.fixture
def trained(workspace):
    """Whether a check passes, of a plan with these changes."""

    def check(evaluate=None, **train):
        if evaluate is None:  # the trainings alone
            check_plan(plan_of(settings(evaluate=None, train=train)))
        else:
            check_plan(plan_of(settings(evaluate={"config": "evaluate.yaml", "set": evaluate})))

    return check


@pytest.mark.parametrize("line", ["generic", "informed"])
def test_who_writes_reference_lines(workspace, trained, line):
    with pytest.raises(AloeError, match=r"roles.responder.model: provider openai needs a model"):
        trained({"models.low.scripted": line, "roles.responder": NO_MODEL})
    with pytest.raises(AloeError, match=r"roles.responder.price: max_cost needs the price"):
        trained({"models.low.scripted": line, "roles.responder": NO_MODEL | {"model": "m"}, "max_cost": 1.0})
    given = json.loads((workspace / "evaluate.yaml").read_text())
    del given["models"]["low"]
    (workspace / "evaluate.yaml").write_text(json.dumps(given))
    trained({"roles.responder": NO_MODEL})  # whom nothing asks


@pytest.mark.parametrize("role", ["judge", "user"])
def test_who_watches_a_run_by_rl(workspace, trained, role):
    watch = {"personas": 1, "roles": {role: NO_MODEL}}
    with pytest.raises(AloeError, match=rf"run sft-s0.*rl.watch.roles.{role}.model: provider openai needs a model"):
        trained(sft={"config": "rl.yaml", "set": {"rl.watch": watch}})
    watch["roles"] = {role: NO_MODEL | {"model": "m"}}
    trained(sft={"config": "rl.yaml", "set": {"rl.watch": watch}})


def test_meshes_fit_the_devices(trained):
    """Tests have eight."""
    with pytest.raises(AloeError, match=r"sampling.mesh: data 1 x fsdp 3 x tensor 1 needs 3 devices, there are 8"):
        trained({"sampling.mesh": {"data": 1, "fsdp": 3}})
    with pytest.raises(AloeError, match=r"run dpo-s0\): mesh: data 5 x fsdp 1 x tensor 1 needs 5 devices, there are 8"):
        trained(sft={"config": "sft.yaml"}, dpo={"config": "dpo.yaml", "start": "sft", "set": {"mesh.data": 5}})
    trained({"sampling.mesh": {"data": 2, "fsdp": 4}})
    trained(sft={"config": "sft.yaml", "set": {"mesh": {"fsdp": 8}}})


def test_on_one_device_replies_are_drawn_without_a_mesh(trained, monkeypatch):
    """As the benchmark does; trainings have theirs."""
    monkeypatch.setenv("XLA_FLAGS", "")
    trained({"sampling.mesh": {"data": 1, "fsdp": 3}})
    with pytest.raises(AloeError, match=r"run sft-s0\): mesh: data 1 x fsdp 8 x tensor 1 needs 8 devices, there are 1"):
        trained(sft={"config": "sft.yaml", "set": {"mesh": {"fsdp": 8}}})


def test_devices_that_cannot_be_opened_are_one_line(trained, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "no_such_platform")
    with pytest.raises(AloeError, match=r"the devices of this machine cannot be counted \(.*no_such_platform"):
        trained({"sampling.mesh": {"data": 1, "fsdp": 3}})


def test_a_sweep_leaves_the_devices_to_its_runs(workspace):
    """A process that has opened a TPU, or the memory of a GPU, keeps it from the runs, which are others."""
    (workspace / "sweep.yaml").write_text(
        json.dumps(
            settings(evaluate={"config": "evaluate.yaml", "set": {"sampling.mesh": {"data": 2, "fsdp": 4}}}).model_dump(
                mode="json", exclude_none=True
            )
        )
    )
    program = (
        "import sys; from click.testing import CliRunner; from aloe_jax.cli.sweep import main\n"
        "done = CliRunner().invoke(main, ['--config', 'sweep.yaml', '--dry-run']); assert not done.exit_code, done\n"
        "from jax._src import xla_bridge; sys.exit(3 if xla_bridge.backends_are_initialized() else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
