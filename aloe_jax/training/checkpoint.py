"""Saving and resuming a run: parameters, optimizer state and the position in the data, through Orbax."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from aloe_jax import config
from aloe_jax.errors import AloeError
from aloe_jax.files import absolute, is_remote
from aloe_jax.models.run_directory import CHECKPOINTS, PARAMS, check_shapes, checkpoint_steps
from aloe_jax.training.step import State


class Checkpoints:
    """The checkpoints of one run directory. Saves are asynchronous; the newest `keep` and the best one stay.

    `shapes` are those of the trained parameters, by dotted name.
    """

    def __init__(self, directory: Path, settings: config.Checkpoints, shapes: Mapping[str, tuple[int, ...]]):
        for logger in ("absl", "asyncio"):
            logging.getLogger(logger).setLevel(
                logging.CRITICAL
            )  # Orbax logs every save, and failures that it raises too
        self.directory, self.shapes = absolute(directory) / CHECKPOINTS, shapes
        with self._one_line():
            self._manager = ocp.CheckpointManager(
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
                ),
            )

    def check_room(self, state: State) -> None:
        """Raise AloeError when the disk has no room for another checkpoint of `state`.

        Orbax notices a full disk only from its writing threads, which tell it at length; this tells it first.
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
        """The newest finished step, None when nothing was saved."""
        return self._manager.latest_step()

    def save(self, step: int, state: State, position: dict[str, Any], validation_loss: float | None) -> None:
        """Start saving; the arrays are copied before this returns, so the state may be donated."""
        self.check_room(state)
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

    def position(self, step: int) -> dict[str, Any]:
        """The data position that was saved with a step."""
        return self._manager.restore(step, args=ocp.args.Composite(position=ocp.args.JsonRestore()))["position"]

    def restore(self, step: int, like: State) -> State:
        """The state of a step, laid out as `like` (which may be on another mesh than the one that saved it).

        Raises AloeError when the checkpoint is of another model.
        """
        path = self.directory / str(step) / PARAMS
        with ocp.StandardCheckpointer() as checkpointer:
            check_shapes(checkpointer.metadata(path).item_metadata.tree, self.shapes, path)
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                **{
                    PARAMS: ocp.args.StandardRestore(abstract["params"]),
                    "optimizer": ocp.args.StandardRestore(abstract["optimizer"]),
                }
            ),
        )
        return {"params": restored[PARAMS], "optimizer": restored["optimizer"]}

    def wait(self) -> None:
        """Block until everything saved so far is on disk."""
        with self._one_line():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish and release threads."""
        with self._one_line():
            self._manager.close()

    @contextlib.contextmanager
    def _one_line(self) -> Iterator[None]:
        """Turn a failed write into one line that says what is still good."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            text = " ".join(str(error).split())
            signs = ("no space", "resource_exhausted", "disk quota", "file too large", "errno", "os error")
            if not isinstance(error, OSError) and not any(sign in text.lower() for sign in signs):
                raise
            raise AloeError(
                f"{self.directory}: saving failed ({text[:200]}); finished checkpoints: {self._finished()}; "
                "free some space and run the same command to go on"
            ) from None
