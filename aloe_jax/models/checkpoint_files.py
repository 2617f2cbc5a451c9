"""The checkpoints of a run as files: which are finished, whether they are whole, and what to go on from where not.

Digests of a checkpoint's files are written into its directory before Orbax gives it its name: a finished checkpoint
without them was saved by an earlier version. In a bucket there are none: the store keeps checksums of its objects and
checks them itself.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from aloe_jax.errors import AloeError
from aloe_jax.models.abandoned import abandoned_in_silence
from aloe_jax.parallel.distributed import is_lead, lead_checks
from aloe_jax.storage.files import absolute, as_path, is_remote, make_directory, write_atomically
from aloe_jax.storage.integrity import DIGESTS, checksums, damage, everything, record, recorded

CHECKPOINTS = "checkpoints"
PARAMS = "params"  # name of the parameters' item in every checkpoint
METRICS = "metrics/metrics"  # the validation loss, by which the best checkpoint is kept
COMMITTED = "commit_success.txt"  # in a bucket, what Orbax writes last into a checkpoint
CLOCK = "_CHECKPOINT_METADATA"  # when a checkpoint was begun and finished; Orbax writes the latter last of all
DELETED = 0.2  # seconds that a run takes to delete what it no longer keeps; the digests may go first
BEGAN = "init_timestamp_nsecs"
UNFINISHED = ".orbax-checkpoint-tmp"  # what Orbax ends the name of a checkpoint with while it writes it


def checkpoint_steps(directory: str | Path) -> list[int]:
    """Steps of the finished checkpoints of a run, in order."""
    root = as_path(directory) / CHECKPOINTS
    if is_remote(root):
        return sorted(int(entry.parent.name) for entry in root.glob(f"*/{COMMITTED}") if _is_step(entry.parent.name))
    return sorted(int(entry.name) for entry in root.glob("*") if _is_step(entry.name) and (entry / PARAMS).is_dir())


def _is_step(name: str) -> bool:
    return name.isascii() and name.isdigit() and str(int(name)) == name


def record_digests(checkpoints: Path, step: int) -> None:
    """Write the digests of a checkpoint that is complete but for its name. Raises OSError where the disk is full."""
    if is_remote(checkpoints):
        return
    for unfinished in checkpoints.glob(f"{step}{UNFINISHED}*"):
        record(unfinished, lambda name: name != CLOCK)


def record_loss(checkpoints: Path, step: int, validation_loss: float) -> None:
    """Give a finished checkpoint, whose files are verified, the validation loss that it was saved without."""
    directory = checkpoints / str(step)
    file = directory / METRICS
    if not (directory / PARAMS).is_dir() or file.exists():
        return
    make_directory(file.parent)
    write_atomically(file, json.dumps({"validation_loss": validation_loss}))
    if (digests := directory / DIGESTS).exists():
        found = json.loads(digests.read_bytes()) | checksums(directory, [METRICS])
        write_atomically(digests, json.dumps(found, indent=1) + "\n")


def only_params(name: str) -> bool:
    """Of a file's name in a checkpoint, whether a model is made from it."""
    return name.startswith(f"{PARAMS}/")


def check_step(run: str | Path, step: int, covered: Callable[[str], bool] = everything) -> None:
    """Raise AloeError where a file of a checkpoint is not as it was saved: which, and what to go on from.

    Of what an earlier version saved it says that nothing is known. On several hosts the lead looks for all.
    """

    def look() -> None:
        directory = _directory(run, step)
        if is_remote(directory):
            return
        if not (directory / DIGESTS).exists():
            time.sleep(DELETED)
            if not directory.exists():
                raise AloeError(f"{directory}: was deleted while it was read; run the same command again")
            if not (directory / PARAMS).is_dir():  # what a deletion or a copy that was ended left
                raise AloeError(f"{directory} has no {PARAMS}, so it is not whole: {advice(run, step, covered)}")
            click.echo(f"{directory}: has no digests of its files, so that they cannot be verified", err=True)
        elif (found := _damage(directory, covered)) is not None:
            raise AloeError(f"{found}: {advice(run, step, covered)}")

    lead_checks(look)


def _damage(directory: Path, covered: Callable[[str], bool]) -> str | None:
    """What is damaged in a checkpoint, in one line; None where nothing is, or nothing was recorded."""
    if (found := damage(directory, covered)) is not None or not (directory / DIGESTS).exists():
        return found
    if not any(only_params(name) for name in recorded(directory)[1]):  # of another directory: it verifies nothing
        return f"{directory / DIGESTS} lists no files of {PARAMS}"
    return None


def advice(run: str | Path, step: int, covered: Callable[[str], bool] = everything) -> str:
    """What to do about a checkpoint that is damaged."""
    directory = _directory(run, step)
    for older in sorted((each for each in checkpoint_steps(run) if each < step), reverse=True):
        if _damage(_directory(run, older), covered) is None:
            return f"delete {directory} to go on from step {older}, or restore it from a copy"
    return f"no older checkpoint is whole; restore {directory} from a copy, or delete it to begin again"


@contextlib.contextmanager
def reading(
    run: str | Path, step: int, covered: Callable[[str], bool] = everything, *, verified: bool = False
) -> Iterator[None]:
    """Read a checkpoint inside: it is whole before (unless it is `verified` already) and not deleted until the end.

    Raises AloeError where that is not so, and for whatever a reader raises of files that nobody can vouch for.
    """
    directory = _directory(run, step)
    if not verified:
        check_step(run, step, covered)
    local = not is_remote(directory)
    files = [file for file in directory.rglob("*") if covered(file.relative_to(directory).as_posix())] if local else []
    try:
        with abandoned_in_silence():
            yield
    except AloeError:
        raise
    except Exception as error:
        if not local or ((directory / DIGESTS).exists() and _damage(directory, covered) is None):
            raise  # the files are what was saved: it is a defect
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise AloeError(f"{directory}: cannot be read ({reason}): {advice(run, step, covered)}") from None
    for file in files:
        if not file.exists():
            raise AloeError(f"{file}: was deleted while it was read; run the same command again")


def check_listing(run: str | Path) -> None:
    """Raise AloeError where what Orbax reads of every checkpoint, time and validation loss, is damaged in one of them.

    By the loss the best checkpoint is kept. A checkpoint that was being deleted when the run was killed may lack
    files: those are not missed.
    """
    if is_remote(as_path(run)) or not is_lead():
        return
    for step in checkpoint_steps(run):
        directory = _directory(run, step)
        scored = (directory / METRICS).is_file()
        found = damage(directory, lambda name: name == METRICS) if scored else None
        if found is None and scored and not _has_number(directory / METRICS, "validation_loss"):
            found = f"{directory / METRICS} holds no validation loss"
        if found is None and (directory / CLOCK).is_file() and not _has_number(directory / CLOCK, BEGAN):
            found = f"{directory / CLOCK} cannot be read: it does not say when the checkpoint was begun"
        if found is not None:
            rest = [each for each in checkpoint_steps(run) if each != step]
            left = f" (there are {', '.join(map(str, rest))} besides)" if rest else ""
            raise AloeError(f"{found}: delete {directory} to go on without it{left}, or restore it from a copy")


def _has_number(file: Path, key: str) -> bool:
    try:
        return math.isfinite(json.loads(file.read_bytes())[key])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return False


def _directory(run: str | Path, step: int) -> Path:
    return absolute(run) / CHECKPOINTS / str(step)
