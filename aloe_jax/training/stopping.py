"""Ending a run early, on request: finish the step, or discard one being drawn; save, leave with status 0."""

from __future__ import annotations

import signal

import jax

from aloe_jax.parallel.distributed import preempted


class Stop:
    """SIGTERM (a preempted machine) or the first Ctrl-C asks for the end; a second signal acts at once.

    In a run of several processes JAX itself catches SIGTERM and makes all of them stop after the same step.
    """

    def __init__(self) -> None:
        self._signal: str | None = None

    def asked(self, step: int) -> str | None:
        """The signal that asks to end after `step`, None to go on. Must be called once a step."""
        if preempted(step):
            self._signal = "SIGTERM"
        return self._signal

    @property
    def signal(self) -> str | None:
        """The name of the signal that asks for the end, for what ends within a step; None where none came."""
        return self._signal

    def __enter__(self) -> Stop:
        caught = (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else ()
        self._before = {number: signal.getsignal(number) for number in caught}
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _: object) -> None:
        self._signal = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
