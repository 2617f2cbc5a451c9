"""tpu/worker.sh, as on a machine of a slice: a job that outlives the connection, its log, its end, its secrets."""

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tpu.cloud import ROOT, Cloud

# Like training: SIGTERM saves and leaves with status 0.
JOB = """
trap 'echo saved after TERM; exit 0' TERM
echo "key $WANDB_API_KEY, token $HF_TOKEN, names ${SECRETS:-none}, argument $1"
for ((i = 0; i < 600; i++)); do sleep 0.05; [[ ! -f "$HOME/end" ]] || exit "$(cat "$HOME/end")"; done
"""


class Machine(Cloud):
    """A home directory with the code in it, and an environment whose job is JOB."""

    def __init__(self, home: Path):
        super().__init__(home)
        (home / "aloe-jax" / "tpu").mkdir(parents=True)
        shutil.copy(ROOT / "tpu" / "worker.sh", home / "aloe-jax" / "tpu")
        (home / "aloe-jax" / ".venv" / "bin").mkdir(parents=True)
        (home / "aloe-jax" / ".venv" / "bin" / "activate").write_text("")
        self.stub("job", JOB)

    def worker(self, *arguments: str) -> str:
        done = subprocess.run(
            ["bash", self.home / "aloe-jax" / "tpu" / "worker.sh", *arguments],
            env=self.environment | {"ALOE_LOG_SECONDS": "0.1", "ALOE_STOP_SECONDS": "2", "SECRETS": "HF_TOKEN=token"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    def until(self, what: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not what():
            assert time.monotonic() < end, self.worker("tail", "20")
            time.sleep(0.02)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    found = Machine(tmp_path / "home")
    yield found
    found.worker("stop")
    found.server.shutdown()


def test_a_job_from_start_to_end(machine: Machine) -> None:
    secrets = machine.home / ".aloe-secrets.env"
    secrets.write_text("# keys\nWANDB_API_KEY=a b=c$HOME\n")
    assert " idle | " in machine.worker("state")
    assert "started" in machine.worker("start", "gs://b/logs", "gs://b/finished.json", "job", "two words")
    machine.until(lambda: "argument" in machine.worker("state"))
    told = machine.worker("state")
    assert told.startswith("aloe-worker ") and " running | " in told
    assert "key a b=c$HOME, token from-secret-manager, names none, argument two words" in told
    assert secrets.stat().st_mode & 0o077 == 0
    assert "running already" in machine.worker("start", "gs://b/logs", "-", "job", "again")
    machine.until(lambda: any(name.startswith("gs://b/logs/") for name in machine.gcloud.objects))
    (machine.home / "end").write_text("0")
    machine.until(lambda: " exited 0 | " in machine.worker("state"))
    assert "gs://b/finished.json" in machine.gcloud.objects
    assert "again" not in machine.worker("tail", "20")


def test_a_job_that_failed_says_so_and_is_not_finished(machine: Machine) -> None:
    (machine.home / "end").write_text("3")
    machine.worker("start", "gs://b/logs", "gs://b/finished.json", "job", "x")
    machine.until(lambda: " exited 3 | ended with status 3" in machine.worker("state"))
    assert "gs://b/finished.json" not in machine.gcloud.objects


def test_the_signal_of_a_machine_that_is_taken_away_lets_the_job_save_once(machine: Machine) -> None:
    machine.worker("start", "gs://b/logs", "-", "job", "x")
    machine.until(lambda: " running | key" in machine.worker("state"))
    job = int((machine.home / ".aloe" / "pid").read_text())
    parent = int(subprocess.run(["ps", "-o", "ppid=", "-p", str(job)], capture_output=True, check=True).stdout)
    for process in (parent, job):  # systemd tells all of them
        subprocess.run(["kill", f"-{signal.SIGTERM}", str(process)], check=True)
    machine.until(lambda: " exited 0 | " in machine.worker("state"))
    log = machine.worker("tail", "20")
    assert log.count("saved after TERM") == 1 and any("/logs/" in name for name in machine.gcloud.objects)


def test_stop_lets_it_save_and_kills_what_does_not_end(machine: Machine) -> None:
    machine.worker("start", "gs://b/logs", "-", "job", "x")
    machine.until(lambda: " running | key" in machine.worker("state"))
    machine.worker("stop")
    assert " running " not in machine.worker("state") and "saved after TERM" in machine.worker("tail", "9")
    machine.stub("job", "trap '' TERM; echo deaf; while :; do sleep 0.1; done")
    machine.worker("start", "gs://b/logs", "-", "job", "x")
    machine.until(lambda: "deaf" in machine.worker("state"))
    machine.worker("stop")
    machine.until(lambda: " exited 137 | " in machine.worker("state"))
