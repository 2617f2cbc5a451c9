"""Taking a run directory: one process at a time, with the settings that it began with."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

import jax

from aloe_jax.errors import AloeError
from aloe_jax.models.checkpoint_files import checkpoint_steps
from aloe_jax.parallel.distributed import is_lead, lead_checks
from aloe_jax.settings import dump_settings, load_settings
from aloe_jax.storage.disk import is_full
from aloe_jax.storage.files import as_path, is_remote, make_directory, write_atomically
from aloe_jax.storage.locks import Lock
from aloe_jax.training.settings import TrainSettings

CONFIG = "config.yaml"
LOCK = "train.lock"  # inside the run directory, whose parent may belong to somebody else
# What a directory has that is no run: an export or another model, adapters, a data set.
OTHERS = ("config.json", "adapter_config.json", "model.safetensors", "digests.json", "dataset_info.json")
# What a resumed run may change; anything else would make it another run.
FREE = {
    *("output", "log_every", "evaluate_every", "checkpoints", "mesh", "profile", "wandb"),
    *("rl.max_calls", "rl.max_cost", "rl.concurrency", "rl.draw.rows"),
    "rl.watch",  # nothing is learned from what is watched
}
# The rows that a run learns from follow from it, and a run goes on with the same rows only (data/loader.py); so one
# that an earlier version began, which did not have the setting, can be given the value that it was begun with.
BOUND_BY_ROWS = {"data.validation_by"}


def check_output(output: str) -> None:
    """Raise AloeError where the output holds a model or a data set, with which a run's files would mix."""
    directory = as_path(output)
    if (directory / CONFIG).exists():
        return
    for name in OTHERS:
        if (directory / name).exists():
            raise AloeError(
                f"output: {directory} holds {name}, so it is a model or a data set and no run; give another output"
            )


@contextlib.contextmanager
def claimed(output: str) -> Iterator[Lock | None]:
    """Train into a directory as its only run. Raises AloeError where another process does, naming it.

    On several hosts the lead has the lock for all of its run. A directory in a bucket cannot be locked and is not.
    What a full disk makes of any write inside, and too little memory of any step, is one line, too.
    """
    directory, taken = as_path(output), list[Lock | None]()
    try:
        lead_checks(lambda: taken.append(lock_on(directory)))
        with one_line_of_the_disk(directory):
            yield taken[0] if taken else None
    finally:
        for lock in taken:
            if lock is not None:
                lock.release()


def lock_on(directory: Path) -> Lock | None:
    """The lock of a run directory, which is made; None in a bucket and in all processes but the lead."""
    if is_remote(directory) or not is_lead():
        return None
    try:
        make_directory(directory)
    except OSError as error:
        raise AloeError(f"{directory}: cannot be made ({error.strerror}); give another output") from None
    return Lock(
        directory / LOCK,
        lambda owner: (
            f"{directory}: another process is training into it ({owner}); wait for it, stop it, or give another output"
        ),
    )


@contextlib.contextmanager
def one_line_of_the_disk(directory: Path) -> Iterator[None]:
    """Turn what a full disk makes of a write, or full memory of a step, into a line that says what is still good."""
    try:
        yield
    except AloeError:
        raise
    except Exception as error:
        if isinstance(error, jax.errors.JaxRuntimeError | MemoryError) and not is_full(error):
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise AloeError(
                f"{directory}: the memory of this machine is not enough ({' '.join(str(error).split())[:200]}); lower "
                "data.rows or data.row_length, raise data.accumulate, or set model.remat=full; --dry-run estimates it"
            ) from None
        if not is_full(error):
            raise
        where = getattr(error, "filename", None) or directory
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        good = ", ".join(map(str, checkpoint_steps(directory))) or "none"
        raise AloeError(
            f"{where}: cannot be written ({reason}); finished checkpoints: {good}; free some space and run the same "
            "command to go on"
        ) from None


def claim_directory(settings: TrainSettings) -> Path:
    """Save the resolved config in the run directory.

    Raises AloeError as `check_settings` does.
    """
    check_settings(settings)
    directory = as_path(settings.output)
    make_directory(directory)
    if is_lead():
        write_atomically(directory / CONFIG, dump_settings(settings))
    return directory


def check_settings(settings: TrainSettings) -> None:
    """Raise AloeError where the output holds a run with other settings, naming the first one that differs.

    A start that left no checkpoint, refused or killed, is no run: there is nothing to go on with, and any settings may
    follow.
    """
    directory = as_path(settings.output)
    saved = directory / CONFIG
    if saved.exists() and checkpoint_steps(directory):
        before = load_settings(TrainSettings, saved)
        for key, (old, new) in differences(before.model_dump(), settings.model_dump()).items():
            if not is_free(key) and key not in BOUND_BY_ROWS:
                raise AloeError(
                    f"{saved}: this run has {key}: {old!r}, now it would be {new!r}; "
                    "give another output, or restore the setting to resume"
                )


def is_free(key: str) -> bool:
    """Whether a dotted setting changes nothing that is learned, so that a resumed run may change it."""
    return is_of(key, FREE)


def is_of(key: str, settings: Collection[str]) -> bool:
    """Whether a dotted setting is one of `settings`, or in a section that is."""
    return any(key == name or key.startswith(f"{name}.") for name in settings)


def differences(old: object, new: object, key: str = "") -> dict[str, tuple[object, object]]:
    """What two nested settings disagree on, by dotted key in the order of the settings: (old, new)."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[object, object]] = {}
        for name in [*new, *(name for name in old if name not in new)]:
            found |= differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        return found
    return {} if old == new else {key: (old, new)}
