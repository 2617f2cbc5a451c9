"""The loop: next batch, compiled step, callbacks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import jax
from jax.sharding import Mesh

from aloe_jax.data.loader import Batch
from aloe_jax.parallel import distributed
from aloe_jax.training.callback import Callback, NoBatchError, Reached
from aloe_jax.training.step import State, Step
from aloe_jax.training.stopping import Stop
from aloe_jax.training.totals import Totals


class Batches(Protocol):
    """Where batches come from."""

    size: int  # rows of a batch, over all devices

    def batch(self, step: int, share: slice) -> Batch:
        """Rows `share` of batch `step` (0-based), [B, ...] on the host.

        Raises NoBatchError where no more can be had: then the run ends, saved, with the steps that it has.
        """
        ...


def loop(
    step: Step[State, tuple[State, Totals]],
    state: State,
    batches: Batches,
    numbers: range,
    mesh: Mesh,
    stop: Stop,
    callbacks: Sequence[Callback],
    compiling: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
) -> tuple[int, str | None]:
    """Run the steps `numbers` (0-based); returns how many are done, and what ended it early.

    A step whose batch was not complete when a signal came is not among them, and there may be none. Without steps,
    callbacks do what an earlier start left undone after the last one. What they leave undone ends the run early, too.

    Nothing here waits for the devices but the first step, inside `compiling`; callbacks do where they read.
    """
    reached: Reached | None = None
    share = distributed.local_rows(mesh, batches.size)
    for number in numbers:
        first = number == numbers.start
        for callback in callbacks:
            callback.before(number + 1)
        try:
            on_host = batches.batch(number, share)
        except NoBatchError as error:
            if reached is not None:
                for callback in callbacks:
                    callback.ended(reached)
            elif not error.signalled:
                raise
            if error.failed:
                raise
            return number, str(error)
        batch = distributed.place(on_host, mesh, batches.size)
        with compiling() if first else contextlib.nullcontext():
            with jax.transfer_guard("disallow"):
                state, totals = step(state, batch)
            if first:
                jax.block_until_ready(totals)
        # Asked once a step: a signal that comes later in the step is acted on, save included, in the next one.
        stopped = stop.asked(number + 1)
        last = number + 1 == numbers.stop or stopped is not None
        reached = Reached(number + 1, state, totals, first, last)
        for callback in callbacks:
            callback.after(reached)
        if reached.unfinished is not None and number + 1 == numbers.stop:
            return number + 1, _asked_to_end(reached.unfinished)
        if last:
            return number + 1, stopped if number + 1 < numbers.stop else None
    try:
        for callback in callbacks:
            callback.before(numbers.stop + 1)
    except NoBatchError as error:
        return numbers.stop, _asked_to_end(error)
    return numbers.stop, None


def _asked_to_end(error: NoBatchError) -> str:
    """What asked for the end; raises the error where it is a failure."""
    if error.failed:
        raise error
    return str(error)
