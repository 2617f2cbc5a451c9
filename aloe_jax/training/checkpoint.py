"""Saving and resuming a run: parameters, optimizer state and the position in the data, through Orbax."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from aloe_jax.models.checkpoint_files import (
    CHECKPOINTS,
    PARAMS,
    advice,
    check_listing,
    checkpoint_steps,
    reading,
    record_digests,
    record_loss,
)
from aloe_jax.models.finite import not_finite
from aloe_jax.models.run_directory import check_shapes
from aloe_jax.storage.disk import is_full
from aloe_jax.storage.files import absolute, is_remote, make_directory
from aloe_jax.storage.locks import Lock
from aloe_jax.training.claim import lock_on
from aloe_jax.training.settings import CheckpointSettings
from aloe_jax.training.step import State

# How Orbax and TensorStore say that a disk is full, besides what the system says.
SIGNS = ("no space", "resource_exhausted", "errno", "os error")


class Checkpoints:
    """The checkpoints of one run directory. Saves are asynchronous; the newest `keep` and the best one stay.

    `shapes` are those of the trained parameters, by dotted name; `lock` is that of the run's directory where this
    process has it already, for one process alone may save there. As a context manager it ends with everything saved,
    however the block is left. Each checkpoint's digests are written before it gets its name (checkpoint_files.py).
    """

    def __init__(
        self,
        directory: Path,
        settings: CheckpointSettings,
        shapes: Mapping[str, tuple[int, ...]],
        lock: Lock | None = None,
    ):
        self._own_lock = lock_on(directory) if lock is None else None
        self._run, self._saving = directory, 0
        for logger in ("absl", "asyncio"):
            logging.getLogger(logger).setLevel(
                logging.CRITICAL
            )  # Orbax logs every save, and failures that it raises too
        self.directory, self.shapes = absolute(directory) / CHECKPOINTS, shapes
        try:
            self._make_directory()
            check_listing(directory)
            with self._one_line():
                self._manager = self._open(settings)
        except BaseException:
            self._release()
            raise

    def _open(self, settings: CheckpointSettings) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self.directory,
            item_names=(PARAMS, "optimizer", "position"),
            options=ocp.CheckpointManagerOptions(
                best_fn=lambda metrics: metrics["validation_loss"],  # without it metrics are not stored
                best_mode="min",
                preservation_policy=managers.AnyPreservationPolicy(
                    [
                        managers.LatestN(settings.keep),
                        managers.BestN(
                            get_metric_fn=lambda metrics: metrics["validation_loss"],
                            reverse=True,  # the smallest is the best
                            n=1,
                            keep_checkpoints_without_metrics=False,
                        ),
                    ]
                ),
                cleanup_tmp_directories=True,  # what a kill in the middle of a save left behind
                async_options=ocp.options.AsyncOptions(
                    post_finalization_callback=lambda: record_digests(self.directory, self._saving)
                ),
            ),
        )

    def _make_directory(self) -> None:
        try:
            make_directory(self.directory)
        except OSError as error:
            raise AloeError(f"{self.directory}: cannot be made ({error.strerror}); give another output") from None

    def check_room(self, state: State) -> None:
        """Raise AloeError when the disk has no room for another checkpoint of `state`.

        Orbax notices a full disk only from its writing threads, which report it at length; this reports it first.
        """
        if is_remote(self.directory):
            return
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise AloeError(
                f"{self.directory}: a checkpoint takes {needed / 2**20:,.1f} MiB and {free / 2**20:,.1f} MiB are free; "
                f"finished checkpoints: {self._finished()}; free some space and run the same command to go on"
            )

    def _finished(self) -> str:
        return ", ".join(map(str, checkpoint_steps(self.directory.parent))) or "none"

    def latest(self) -> int | None:
        """The newest finished step, None when nothing was saved. Its files may be damaged: see `position`."""
        return self._manager.latest_step()

    def save(self, step: int, state: State, position: dict[str, JSON], validation_loss: float | None) -> None:
        """Start saving; the arrays are copied before this returns, so the state may be donated.

        Raises AloeError for a state with infinite values or NaN, which would only be found out after the run.
        """
        self.wait()
        if (name := not_finite(state)) is not None:
            raise AloeError(
                f"{self.directory}: after step {step} {name} has values that are not finite, so the state is not "
                f"saved; finished checkpoints: {self._finished()}; lower optimizer.learning_rate and give another "
                "output, or look at the conversations of that step"
            )
        self.check_room(state)
        self._saving = step
        with self._one_line():
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{
                        PARAMS: ocp.args.StandardSave(state["params"]),
                        "optimizer": ocp.args.StandardSave(state["optimizer"]),
                        "position": ocp.args.JsonSave(position),
                    }
                ),
                metrics=None if validation_loss is None else {"validation_loss": validation_loss},
            )
        if not saved:
            raise RuntimeError(f"{self.directory}: Orbax did not save step {step}")

    def score(self, step: int, validation_loss: float) -> None:
        """Give a checkpoint that was restored the loss that it was saved without: by it the best one is kept."""
        self.wait()
        with self._one_line():
            record_loss(self.directory, step, validation_loss)
            self._manager.reload()

    def position(self, step: int) -> dict[str, JSON]:
        """The data position that was saved with a step. Raises AloeError where a file of that step is damaged."""
        name = self.directory / str(step)
        with reading(self._run, step):
            found = json.loads((name / "position" / "metadata").read_bytes())
            if not isinstance(found, dict) or found.get("step") != step or "fingerprint" not in found:
                raise AloeError(f"{name}: does not say that it was saved at step {step}: {advice(self._run, step)}")
        return found

    def restore(self, step: int, like: State) -> State:
        """The state of a step, laid out as `like` (which may be on another mesh than the one that saved it).

        Raises AloeError when the checkpoint is of another model.
        """
        with reading(self._run, step, verified=True):  # by `position`
            params_path = self.directory / str(step) / PARAMS
            with ocp.StandardCheckpointer() as checkpointer:
                check_shapes(checkpointer.metadata(params_path).item_metadata.tree, self.shapes, params_path)

                def item[T](name: str, shapes: T) -> T:
                    found: T = checkpointer.restore(self.directory / str(step) / name, jax.tree.map(_shape, shapes))
                    return found

                restored = State(params=item(PARAMS, like["params"]), optimizer=item("optimizer", like["optimizer"]))
            if (bad := not_finite(restored)) is not None:
                raise AloeError(
                    f"{self.directory / str(step)}: {bad} has values that are not finite: {advice(self._run, step)}"
                )
        return restored

    def wait(self) -> None:
        """Block until everything saved so far is on disk."""
        with self._one_line():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish and release threads."""
        try:
            with self._one_line():
                self._manager.close()
        finally:
            self._release()

    def _release(self) -> None:
        if self._own_lock is not None:
            self._own_lock.release()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except AloeError:
            if kind is None:
                raise  # else what ended the block is reported, which came first

    @contextlib.contextmanager
    def _one_line(self) -> Iterator[None]:
        """Turn a failed write into one line that says what is still good."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            text = " ".join(str(error).split())
            if not isinstance(error, OSError) and not is_full(error, SIGNS):
                raise
            raise AloeError(
                f"{self.directory}: saving failed ({text[:200]}); finished checkpoints: {self._finished()}; "
                "free some space and run the same command to go on"
            ) from None


def _shape(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
