"""Run a stage of the demo as a process of its own, and record that it is done."""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import click

from aloe_jax.cli.command import debugging
from aloe_jax.demo.pipeline import DemoStage
from aloe_jax.errors import AloeError
from aloe_jax.storage.files import write_atomically


class Stamp(NamedTuple):
    """What is recorded of a finished stage."""

    digest: str  # of its command and those before it
    seconds: float


def run_stage(stage: DemoStage, command: list[str], stamp: Path, digest: str, number: str) -> None:
    """Run one stage unless its stamp says that it is done. Raises AloeError when it fails, or on another stamp."""
    title = f"[{number}] {stage.does}"
    if stamp.exists():
        stamped = read_stamp(stamp)
        if stamped.digest != digest:
            raise AloeError(
                f"{stamp.parent.parent}: made with other settings (stage {stage.name} differs); remove it, or give "
                "another --output"
            )
        click.echo(f"{title}: done before, in {stamped.seconds:.0f} s")
        return
    click.secho(f"\n{title}", bold=True)
    click.echo(f"$ python {shlex.join(command)}")
    start = time.perf_counter()
    cache = stamp.parent.parent / "compiled"
    environment = (
        os.environ
        | ({"ALOE_DEBUG": "1"} if debugging() else {})
        | {"JAX_COMPILATION_CACHE_DIR": str(cache.absolute()), "PYTHONUNBUFFERED": "1"}
    )
    child = [sys.executable, *command]
    status = subprocess.run(child, env=environment, check=False, preexec_fn=die_with_parent).returncode
    if status:
        raise AloeError(f"stage {stage.name} stopped with status {status}; run the same command to go on from there")
    write_atomically(stamp, json.dumps({"digest": digest, "seconds": time.perf_counter() - start}))


def read_stamp(stamp: Path) -> Stamp:
    """Raises AloeError where the file is damaged."""
    try:
        found = json.loads(stamp.read_bytes())
        return Stamp(str(found["digest"]), float(found["seconds"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AloeError(f"{stamp}: cannot be read ({error}); remove it, and the stage is looked at again") from None


def die_with_parent() -> None:
    """In a child on Linux: end when the demo is killed, so that a restarted demo never meets its own orphan."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
