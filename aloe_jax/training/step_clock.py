"""What the time of a step goes into, where its batch is drawn before it: drawing, waiting for calls, training.

The end of a step's updates is noticed by a thread of its own: the loop does not wait for it, and a drawing whose first
calls to users are made while the devices still train is counted from the end of that training on. So every moment
counts once, and the phases of a step add up to its time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import jax

from aloe_jax.rollouts.drawing import Span
from aloe_jax.training.totals import Totals


@dataclass(frozen=True)
class StepTime:
    """Of one step: how many replies were drawn, and seconds by phase, "training" among them."""

    replies: int
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class _Drawn:
    began: float
    ended: float
    spans: Sequence[Span]
    replies: int


class StepClock:
    """Of one run. `close` ends its thread."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock` is that of the spans of `drawn`."""
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="step-clock")
        self._drawn: dict[int, _Drawn] = {}
        self._trained: dict[int, Future[float]] = {}
        self._free = float("-inf")  # when the updates of the last step that was read were done

    def drawn(self, step: int, began: float, spans: Sequence[Span], replies: int) -> None:
        """The batch of `step` is complete now, and the devices get it next."""
        self._drawn[step] = _Drawn(began, self._clock(), spans, replies)

    def dispatched(self, step: int, totals: Totals) -> None:
        """The devices have the batch of `step`, and `totals` will be there when its updates are done."""
        self._trained[step] = self._thread.submit(self._end_of, totals)

    def _end_of(self, totals: Totals) -> float:
        jax.block_until_ready(totals)
        return self._clock()

    def read(self, step: int) -> StepTime | None:
        """The time of a step whose totals were fetched, read once and in the order of the steps; None: unknown."""
        drawn, trained = self._drawn.pop(step, None), self._trained.pop(step, None)
        if drawn is None or trained is None:
            return None
        free, self._free = self._free, trained.result()
        began, ended = max(drawn.began, free), max(drawn.ended, free)
        seconds = {"generating": 0.0, "waiting": 0.0}
        for span in drawn.spans:
            spent = max(0.0, span.ended - max(span.began, free))
            seconds[span.phase] = seconds.get(span.phase, 0.0) + spent
        seconds["training"] = max(0.0, self._free - ended)
        seconds["other"] = max(0.0, self._free - began - sum(seconds.values()))
        return StepTime(drawn.replies, seconds)

    def close(self) -> None:
        """End the thread; a step under way is not waited for by `read` any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
