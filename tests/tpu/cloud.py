"""The scripts of tpu/ on a machine whose gcloud is a stand-in."""

import os
import signal
import subprocess
from pathlib import Path

from tests.tpu.gcloud import Gcloud, Server

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "NAME": "aloe-test",
    "PROJECT": "my-project",
    "ZONE": "us-west4-a",
    "ACCELERATOR_TYPE": "v5litepod-16",
    "RUNTIME_VERSION": "v2-alpha-tpuv5-lite",
    "OUTPUT": "gs://my-bucket/runs/aloe-test",
    "COMMAND": "train",
    "CONFIG": "configs/demo/dpo.yaml",
    "POLL_SECONDS": "0.01",
}


class Cloud:
    """A home directory with commands in bin/, a settings file, and the stand-in behind `gcloud`."""

    def __init__(self, home: Path, settings: dict[str, str] | None = None, overrides: tuple[str, ...] = ()):
        self.home, self.gcloud = home, Gcloud()
        (home / "bin").mkdir(parents=True)
        self.server = Server(self.gcloud, home / "bin")
        self.file = home / "settings.env"
        lines = [f"{key}={value}" for key, value in (SETTINGS | (settings or {})).items()]
        lines += [f"OVERRIDE={override}" for override in overrides]
        self.file.write_text("# a comment\n\n" + "\n".join(lines))

    def stub(self, name: str, script: str) -> None:
        """Another command of bin/."""
        command = self.home / "bin" / name
        command.write_text(f"#!/usr/bin/env bash\n{script}\n")
        command.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"PATH": f"{self.home / 'bin'}:{os.environ['PATH']}", "HOME": str(self.home)}

    def command(self, script: str, *arguments: str) -> list[str]:
        return ["bash", str(ROOT / "tpu" / f"{script}.sh"), "--settings", str(self.file), *arguments]

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(script, *arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def interrupt(self, script: str, *arguments: str, number: int = signal.SIGINT) -> subprocess.CompletedProcess[str]:
        """Ctrl-C, to the whole process group, once the stand-in hangs."""
        process = subprocess.Popen(
            self.command(script, *arguments),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.gcloud.hanging.wait(60)
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)
