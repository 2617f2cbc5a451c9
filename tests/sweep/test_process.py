"""A command ends with the process that started it, and has time to save at Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LIMIT = 60.0  # seconds that a busy machine may take for what takes one

# Both ends in one file: `parent` runs `child`, which says when it is ready and, at Ctrl-C, saves for a while.
PROGRAM = """
import os, sys, time
from pathlib import Path
from aloe_jax.sweep.process import run_command
role, at = sys.argv[1], Path(sys.argv[2])
if role == "parent":
    try:
        status = run_command([__file__, "child", str(at)], {"ADDED": "yes"})
    except KeyboardInterrupt:
        (at / "parent").write_text(str((at / "saved").exists()))
        sys.exit(130)
    sys.exit(status)
try:
    (at / "child").write_text(f"{os.getpid()} {os.environ['ADDED']}")
    time.sleep(2 * LIMIT)
except KeyboardInterrupt:
    time.sleep(1)
    (at / "saved").write_text("")
"""


@pytest.fixture
def started(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM.replace("LIMIT", str(LIMIT)))
    process = subprocess.Popen([sys.executable, tmp_path / "program.py", "parent", tmp_path], start_new_session=True)
    try:
        wait_for(lambda: written(tmp_path / "child") or process.poll() is not None, "the command did not start")
        assert process.poll() is None
        yield process, tmp_path
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(LIMIT)


def test_ctrl_c_waits_for_what_is_saved(started):
    process, at = started
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(LIMIT) == 130
    assert (at / "parent").read_text() == "True"


def test_a_command_does_not_outlive_who_started_it(started):
    process, at = started
    child, added = (at / "child").read_text().split()
    assert added == "yes"
    process.kill()
    process.wait(LIMIT)
    wait_for(lambda: has_ended(child), f"process {child} is still there")


def wait_for(condition, complaint):
    """Fails with `complaint` where the condition does not come true in `LIMIT` seconds."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, complaint
        time.sleep(0.02)


def written(path):
    return path.exists() and path.read_text()


def has_ended(process):
    """Whether it is gone, or only its status is still to be collected."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
