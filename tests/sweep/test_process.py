"""A command ends with the process that started it, and has time to save at Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Both ends in one file: `parent` runs `child`, which says when it is ready and, at Ctrl-C, saves for a while.
PROGRAM = """
import os, sys, time
from pathlib import Path
from aloe_jax.sweep.process import run_command
role, at = sys.argv[1], Path(sys.argv[2])
if role == "parent":
    try:
        status = run_command([__file__, "child", str(at)], {"GIVEN": "yes"})
    except KeyboardInterrupt:
        (at / "parent").write_text(str((at / "saved").exists()))
        sys.exit(130)
    sys.exit(status)
try:
    (at / "child").write_text(f"{os.getpid()} {os.environ['GIVEN']}")
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)
    (at / "saved").write_text("")
"""


@pytest.fixture
def started(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen([sys.executable, tmp_path / "program.py", "parent", tmp_path], start_new_session=True)
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
        assert process.poll() is None
        time.sleep(0.02)
    yield process, tmp_path
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_ctrl_c_waits_for_what_is_saved(started):
    process, at = started
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait() == 130
    assert (at / "parent").read_text() == "True"


def test_a_command_does_not_outlive_who_started_it(started):
    process, at = started
    child, given = (at / "child").read_text().split()
    assert given == "yes"
    process.kill()
    process.wait()
    for _ in range(500):
        try:
            if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except FileNotFoundError:
            return
        time.sleep(0.02)
    pytest.fail(f"process {child} is still there")
