"""The peers' environments: made on first use under .bench/, each from a file of pinned requirements."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).parents[3]
BENCH = ROOT / ".bench"  # environments, logs and compiled code; may be deleted at any time


def own_directory() -> Path:
    """BENCH, made where it is missing, out of git's sight."""
    BENCH.mkdir(exist_ok=True)
    (BENCH / ".gitignore").write_text("*\n")
    return BENCH


@dataclass(frozen=True)
class Environment:
    """An interpreter's version and what is installed for it."""

    name: str  # its requirements are NAME.txt beside this file
    version: str  # "3.11"
    probe: str  # a statement that fails in a wrong or incomplete environment

    @property
    def requirements(self) -> Path:
        """Every package with its version."""
        return Path(__file__).parent / f"{self.name}.txt"

    def python(self) -> Path:
        """Its interpreter; installs it where that has not been done with these requirements.

        Raises ClickException when there is no such Python or the packages cannot be had.
        """
        digest = hashlib.sha256(self.requirements.read_bytes()).hexdigest()[:12]
        directory = own_directory() / "environments" / f"{self.name}-{self.version}-{digest}"
        python, ready = directory / "bin" / "python", directory / ".ready"
        if ready.exists():
            return python
        interpreter = find_python(self.version)
        click.echo(f"{self.name}: installing into {directory} (once; 1.5 GB)")
        shutil.rmtree(directory, ignore_errors=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for command, hint in (
            ([interpreter, "-m", "venv", str(directory)], "is its venv module installed?"),
            ([*pip, "-r", str(self.requirements)], "pip needs an index of PyPI's packages" + self._torch_hint()),
            ([str(python), "-c", self.probe], "the environment is not what was pinned"),
        ):
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                last = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")][-3:]
                raise click.ClickException(f"{self.name}: {' '.join(last) or command}; {hint}")
        ready.touch()
        return python

    def _torch_hint(self) -> str:
        if "torch==" not in self.requirements.read_text():
            return ""
        return "; torch's CPU build for Linux is on PyTorch's own index of CPU wheels: name it in PIP_EXTRA_INDEX_URL"


TRL = Environment("trl", "3.11", "import torch, trl; assert torch.version.cuda is None, 'a CUDA build of torch'")
TUNIX = Environment("tunix", "3.12", "import jax, tunix; assert jax.default_backend() == 'cpu', 'JAX found no CPU'")


def find_python(version: str) -> str:
    """An interpreter of this version ("3.11"): on the PATH, this one's own, or one that pyenv holds."""
    for candidate in _candidates(version):
        found = subprocess.run(
            [candidate, "-c", "import sys; print(*sys.version_info[:2], sep='.')"],
            capture_output=True,
            text=True,
            check=False,
        )
        if found.returncode == 0 and found.stdout.strip() == version:
            return candidate
    raise click.ClickException(
        f"Python {version} is needed as python{version} on the PATH or under pyenv (`pyenv install {version}`); "
        "the other contestants can run without it: see --only"
    )


def _candidates(version: str) -> Iterator[str]:
    if path := shutil.which(f"python{version}"):
        yield path
    base = getattr(sys, "_base_executable", sys.executable)
    if f"{sys.version_info[0]}.{sys.version_info[1]}" == version:
        yield base
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    yield from map(str, sorted(versions.glob(f"{version}*/bin/python{version}"), reverse=True))
