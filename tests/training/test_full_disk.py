"""A disk that fills up at every point of a run: one line, finished checkpoints whole, and the same command goes on."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aloe_jax.settings import dump_settings

SIZE = 1600  # KiB of the disk: more than the run takes
ROOM = ["unshare", "--user", "--map-root-user", "--mount"]  # a small disk of one's own, without being root


@pytest.mark.soak
def test_a_full_disk_at_every_write(settings, tmp_path):
    if shutil.which("unshare") is None or subprocess.run([*ROOM, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a disk of their own")
    disk = tmp_path / "disk"
    disk.mkdir()
    made = settings(output="disk/run", checkpoints={"every": 2, "keep": 9}, log_every=1)
    path = tmp_path / "run.yaml"
    path.write_text(dump_settings(made))
    script = 'mount -t tmpfs -o size="$2"k tmpfs "$1" && exec "$3" -m tests.training.full_disk "$4" "$1" "$2"'
    done = subprocess.run(
        [*ROOM, "sh", "-c", script, "sh", str(disk), str(SIZE), sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    trials = [json.loads(line.removeprefix("trial ")) for line in done.stdout.splitlines() if line.startswith("trial ")]
    assert done.returncode == 0, done.stderr[-3000:]
    failed = [trial for trial in trials if trial["message"] is not None]
    assert len(failed) > 15 and trials[-1]["message"] is None  # from a disk without room to one with enough
    assert len({tuple(trial["saved"]) for trial in failed}) > 1  # some after a checkpoint was finished
    for trial in trials:
        assert trial["again"] is None and trial["complete"], trial
    for trial in failed:
        message = trial["message"]
        assert "\n" not in message and "free some space" in message, message
        assert "finished checkpoints: " + (", ".join(map(str, trial["saved"])) or "none") in message, trial
