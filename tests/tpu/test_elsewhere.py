"""The launchers for a machine with GPUs, for Slurm and for Kubernetes, with stand-ins for what they call."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.tpu.cloud import ROOT, Cloud

# A Python that trains: SIGTERM saves and leaves with 0, a file `end` in the directory tells how it ends, and
# tpu/finished.py looks for a file `finished`.
PYTHON = """
if [[ $1 == tpu/finished.py ]]; then [[ -f finished ]]; exit; fi
trap 'echo saved; exit 0' TERM
echo "$JAX_COORDINATOR_ADDRESS ${JAX_NUM_PROCESSES:-1} ${JAX_PROCESS_ID:-0} ${JAX_LOCAL_DEVICE_IDS:-all} $*" >>asked
touch running
while [[ ! -f end ]]; do sleep 0.02; done
exit "$(cat end)"
"""


class Machine:
    """A directory of the project with stand-ins beside it."""

    def __init__(self, home: Path):
        self.home, self.project = home, home / "project"
        shutil.copytree(ROOT / "tpu", self.project / "tpu", ignore=shutil.ignore_patterns("__pycache__"))
        (home / "bin").mkdir()
        for place in (home / "bin" / "python", self.project / ".venv-gpu" / "bin" / "python"):
            self.stub(place, PYTHON)
        (self.project / ".venv-gpu" / "bin" / "activate").write_text("")
        shutil.copy(ROOT / "setup.cfg", self.project)
        stamp = subprocess.run(
            "cat tpu/gpu/requirements.lock setup.cfg | sha256sum",
            shell=True,
            cwd=self.project,
            capture_output=True,
            check=True,
        ).stdout
        (self.project / ".venv-gpu" / ".ready").write_bytes(stamp)  # as if it had been installed
        (self.project / "c.yaml").write_text("")
        self.stub(home / "bin" / "nvidia-smi", "echo GPU 0")
        self.stub(home / "bin" / "srun", 'shift; for rank in 0; do SLURM_PROCID=$rank exec "$@"; done')
        self.stub(home / "bin" / "scontrol", 'echo "$*" >>requeued; [[ $1 != show ]] || printf "node-7\\nnode-8\\n"')

    @staticmethod
    def stub(place: Path, text: str) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"#!/usr/bin/env bash\n{text}\n")
        place.chmod(0o755)

    def start(self, *command: str, **variables: str) -> subprocess.Popen:
        environment = os.environ | {"PATH": f"{self.home / 'bin'}:{os.environ['PATH']}", "POLL_SECONDS": "0.05"}
        return subprocess.Popen(
            ["bash", *command],
            cwd=self.project,
            env=environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def until(self, name: str) -> None:
        end = time.monotonic() + 30
        while not (self.project / name).exists():
            assert time.monotonic() < end, name
            time.sleep(0.01)

    def read(self, name: str) -> str:
        return (self.project / name).read_text()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    found = Machine(tmp_path)
    yield found
    (found.project / "end").write_text("0")  # whatever still runs


# ---------------------------------------------------------------- Slurm

SLURM = ("tpu/slurm/train.sbatch", "--config", "c.yaml", "output=runs/x")


def test_slurm_one_node(machine: Machine) -> None:
    for name in ("end", "finished"):
        (machine.project / name).write_text("0")
    job = machine.start(*SLURM, SLURM_JOB_ID="5")
    job.communicate(timeout=30)
    assert job.returncode == 0
    assert machine.read("asked").split() == [
        "1",
        "0",
        "all",
        "-m",
        "aloe_jax.train",
        "--config",
        "c.yaml",
        "output=runs/x",
    ]


def test_slurm_several_nodes_find_each_other(machine: Machine) -> None:
    for name in ("end", "finished"):
        (machine.project / name).write_text("0")
    variables = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node-[7-8]", "SLURM_GPUS_ON_NODE": "4"}
    job = machine.start(*SLURM, SLURM_JOB_ID="5", **variables)
    told, _ = job.communicate(timeout=30)
    assert job.returncode == 0, told
    assert machine.read("asked").startswith("node-7:20005 2 0 0,1,2,3 ")


def test_slurm_queues_itself_again_when_its_time_is_up(machine: Machine) -> None:
    job = machine.start(*SLURM, SLURM_JOB_ID="5")
    machine.until("running")
    job.send_signal(signal.SIGUSR1)
    told, _ = job.communicate(timeout=30)
    assert job.returncode == 0 and "saved" in told and machine.read("requeued") == "requeue 5\n"


@pytest.mark.parametrize("output", ["/dev/full", "a reader that is gone"])
def test_slurm_queues_itself_again_though_its_log_cannot_be_written(machine: Machine, output: str) -> None:
    read, write = os.pipe()
    os.close(read)
    job = subprocess.Popen(
        ["bash", *SLURM],
        cwd=machine.project,
        env=os.environ | {"PATH": f"{machine.home / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "5"},
        stdout=write if output != "/dev/full" else os.open(output, os.O_WRONLY),
        stderr=subprocess.STDOUT,
    )
    machine.until("running")
    job.send_signal(signal.SIGUSR1)
    job.wait(30)
    assert machine.read("requeued") == "requeue 5\n"


def test_slurm_a_job_that_was_cancelled_or_failed_is_not_queued_again(machine: Machine) -> None:
    for status, expected in (("0", 1), ("3", 3)):
        (machine.project / "end").write_text(status)
        job = machine.start(*SLURM, SLURM_JOB_ID="5")
        job.communicate(timeout=30)
        assert job.returncode == expected and not (machine.project / "requeued").exists()


def test_slurm_dry_run_and_directives(machine: Machine) -> None:
    job = machine.start(*SLURM, DRY_RUN="yes")
    told, _ = job.communicate(timeout=30)
    assert job.returncode == 0 and not (machine.project / "asked").exists()
    assert shlex.split(told)[0] == "srun" and told.rstrip().endswith("output=runs/x")
    text = machine.read("tpu/slurm/train.sbatch")
    assert "#SBATCH --requeue" in text and "#SBATCH --signal=B:USR1@300" in text
    assert "sbatch --nodes=4" in machine.start("tpu/slurm/train.sbatch", "--help").communicate(timeout=30)[0]


# ---------------------------------------------------------------- one machine with GPUs


def test_gpu_start_show_and_end(machine: Machine) -> None:
    show = machine.start("tpu/gpu/run.sh", "train", "--config", "c.yaml", "x=1")
    machine.until("running")
    assert " running | " in machine.start("tpu/gpu/run.sh", "state").communicate(timeout=30)[0]
    (machine.project / "end").write_text("7")
    show.communicate(timeout=30)
    assert show.returncode == 7
    assert machine.read("asked").split()[-5:] == ["-m", "aloe_jax.train", "--config", "c.yaml", "x=1"]


def test_gpu_ctrl_c_ends_the_showing_only(machine: Machine) -> None:
    show = machine.start("tpu/gpu/run.sh", "train", "--config", "c.yaml")
    machine.until("running")
    show.send_signal(signal.SIGINT)
    told, _ = show.communicate(timeout=30)
    assert show.returncode == 130 and "It goes on" in told
    assert " running | " in machine.start("tpu/gpu/run.sh", "state").communicate(timeout=30)[0]
    machine.start("tpu/gpu/run.sh", "stop").communicate(timeout=30)
    assert "saved" in machine.read("runs/.gpu/log")


def test_gpu_dry_run_and_refusals(machine: Machine) -> None:
    told, _ = machine.start("tpu/gpu/run.sh", "--dry-run", "train", "--config", "c.yaml").communicate(timeout=30)
    assert len(told.splitlines()) == 2 and not (machine.project / "asked").exists()
    assert "is no file" in machine.start("tpu/gpu/run.sh", "train", "--config", "no.yaml").communicate(timeout=30)[0]
    assert "give train" in machine.start("tpu/gpu/run.sh", "chat").communicate(timeout=30)[0]
    assert "Usage" in machine.start("tpu/gpu/run.sh", "--help").communicate(timeout=30)[0]
    machine.stub(machine.home / "bin" / "nvidia-smi", "exit 9")
    refused = machine.start("tpu/gpu/run.sh", "train", "--config", "c.yaml").communicate(timeout=30)[0]
    assert "finds no GPU" in refused


# ---------------------------------------------------------------- Kubernetes


def test_a_pod_succeeds_only_when_the_run_is_complete(machine: Machine) -> None:
    pod = machine.start("tpu/gke/job.sh", "--config", "c.yaml")
    machine.until("running")
    pod.send_signal(signal.SIGTERM)  # the node is taken away
    told, _ = pod.communicate(timeout=30)
    assert pod.returncode == 75 and "saved" in told
    (machine.project / "end").write_text("0")
    (machine.project / "finished").touch()
    pod = machine.start("tpu/gke/job.sh", "--config", "c.yaml")
    pod.communicate(timeout=30)
    assert pod.returncode == 0


def manifest(cloud: Cloud, *arguments: str) -> subprocess.CompletedProcess[str]:
    return cloud.run("gke/manifest", "IMAGE=r-docker.pkg.dev/p/aloe", "TOPOLOGY=4x4", *arguments)


def test_the_manifest(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path / "cloud", overrides=("model.lora={rank: 16}", "a.b=it's"))
    done = manifest(cloud, "SLICES=2", "ACCOUNT=trainer", "SECRET=keys")
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(done.stdout)
    assert found["kind"] == "JobSet" and found["metadata"]["name"] == "aloe-test"
    (job,) = found["spec"]["replicatedJobs"]
    assert job["replicas"] == 2
    assert job["template"]["spec"]["parallelism"] == job["template"]["spec"]["completions"] == 4  # machines of 4 chips
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    (container,) = pod["containers"]
    assert container["args"][-2:] == ["model.lora={rank: 16}", "a.b=it's"]
    assert "output=gs://my-bucket/runs/aloe-test" in container["args"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4} and pod["serviceAccountName"] == "trainer"
    assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
    assert "gke-spot" not in manifest(cloud, "TIER=on-demand").stdout
    cloud.server.shutdown()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("IMAGE=", "IMAGE is missing"),
        ("IMAGE=x\n  privileged: true", "IMAGE"),
        ("IMAGE={a: b}", "is not the name of a container image"),
        ("ACCOUNT=a: b", "ACCOUNT: a: b must be"),
        ("SECRET=a}, b: {", "must be lower-case letters"),
        ("OVERRIDE=a.b=1\nc: d", "a value is one line"),
        ("TOPOLOGY=16", "TOPOLOGY: 16 must be such as 4x4"),
        ("CHIPS=3", "CHIPS: 3 must be 1, 4 or 8"),
        ("TOPOLOGY=1x2", "1x2 is 2 chips, which machines of 4 do not make up"),
        ("ACCELERATOR_TYPE=v3-8", "v3-8 has no node label known here"),
        ("NAM=x", "did you mean NAME?"),
    ],
)
def test_the_manifest_is_refused(tmp_path: Path, given: str, says: str) -> None:
    cloud = Cloud(tmp_path / "cloud")
    done = manifest(cloud, given)
    assert done.returncode == 1 and says in done.stderr and done.stdout == ""
    cloud.server.shutdown()
