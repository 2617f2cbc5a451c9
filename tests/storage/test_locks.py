"""Locks: one process at a time, whatever way the one before it ended."""

import subprocess
import sys

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.storage.locks import locked

HOLDER = """
import sys, time
from pathlib import Path
from aloe_jax.storage.locks import locked
with locked(Path(sys.argv[1]), "training into"):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("name", ["run", "{braces}", "with space %s"])
def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path, name):
    target = tmp_path / name
    other = subprocess.Popen([sys.executable, "-c", HOLDER, str(target)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(AloeError) as refused, locked(target, "training into"):
        pass
    assert f"{target}: another process is training into it (process {other.pid} on " in str(refused.value)
    other.kill()
    other.wait()
    with locked(target, "training into"):
        pass


def test_the_same_process_is_refused_too_and_let_in_afterwards(tmp_path):
    with locked(tmp_path / "new" / "run", "building"):
        with pytest.raises(AloeError, match="is building it"), locked(tmp_path / "new" / "run", "building"):
            pass
        with locked(tmp_path / "new" / "other", "building"):
            pass
    with locked(tmp_path / "new" / "run", "building"):
        pass


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AloeError, match="file"), locked(tmp_path / "file" / "run", "building"):
        pass
