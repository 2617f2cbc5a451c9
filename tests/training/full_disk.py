"""Runs on a disk that is full at every point of a run; started by test_full_disk.py where a small disk can be mounted.

python -m tests.training.full_disk SETTINGS.yaml DISK SIZE: DISK is a mount of SIZE KiB, and the run's output is on it.
Prints a line of JSON a trial: KiB that were free, the error (null where there was none), steps that were saved.
"""

import json
import shutil
import sys
from pathlib import Path

from aloe_jax.errors import AloeError
from aloe_jax.models.opening import load_run
from aloe_jax.models.run_directory import checkpoint_steps
from aloe_jax.settings import load_settings
from aloe_jax.training import checkpoint
from aloe_jax.training.run import train
from aloe_jax.training.settings import TrainSettings

# The check before the first save is for a disk that is already full; here it fills up later, behind its back.
checkpoint.Checkpoints.check_room = lambda self, state: None


def main(path: str, disk: str, size: str) -> None:
    settings = load_settings(TrainSettings, path)
    root, output = Path(disk), Path(settings.output)
    trials = [*range(0, 60, 4), *range(60, int(size), 40)]
    for free in trials:
        shutil.rmtree(output, ignore_errors=True)
        for left in root.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        (root / "filler").write_bytes(bytes((int(size) - free) * 1024))
        message = run(settings)
        saved = checkpoint_steps(output)
        for step in saved:
            load_run(output, step=step)
        (root / "filler").unlink()
        again = run(settings)
        complete = (output / "finished.json").exists() and checkpoint_steps(output)[-1:] == [settings.steps]
        print(
            "trial",
            json.dumps({"free": free, "message": message, "saved": saved, "again": again, "complete": complete}),
        )


def run(settings: TrainSettings) -> str | None:
    try:
        train(settings)
    except AloeError as error:
        return str(error)
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
