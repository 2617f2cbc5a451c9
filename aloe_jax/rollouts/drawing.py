"""A drawing of rollouts while it goes on: how far it is, what its seconds go into, and whether it should end early."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Literal, NamedTuple

from aloe_jax.errors import AloeError

Phase = Literal["generating", "waiting", "reference"]  # in the sampler, for calls, for the reference's log-probs

LOOK = 0.25  # seconds between two looks at whether to end, while calls are waited for


class EndedError(AloeError):
    """A drawing was asked to end before it was complete; what it drew is discarded."""


class Span(NamedTuple):
    """Seconds on the clock of `Drawing` between which the drawing was in one phase."""

    phase: Phase
    began: float
    ended: float


class Drawing:
    """Of one batch, in one thread; `describe` may be called from others.

    `ending` says what asks for the end, such as a signal, or None; `in_flight` how many calls are under way.
    """

    def __init__(
        self,
        ending: Callable[[], str | None] = lambda: None,
        in_flight: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.spans: list[Span] = []
        self.began = clock()
        self._ending, self._in_flight, self._clock = ending, in_flight, clock
        self._at = ""

    def describe(self) -> str:
        """How far it is, such as "turn 3 of 10, 16 conversations, 4 calls in flight"; "" before the first turn."""
        calls = self._in_flight()
        return self._at + (f", {calls} call{'s' * (calls != 1)} in flight" if self._at and calls else "")

    def turn(self, turn: int, turns: int, conversations: int) -> None:
        """Turn `turn` (0-based) begins in so many conversations. Raises EndedError."""
        self.check()
        self._at = f"turn {turn + 1} of {turns}, {conversations} conversation{'s' * (conversations != 1)}"

    def check(self) -> None:
        """Raise EndedError, with what asked for it, where the drawing should end."""
        if (why := self._ending()) is not None:
            raise EndedError(why)

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """The block is a phase of the drawing; phases do not contain each other."""
        began = self._clock()
        try:
            yield
        finally:
            self.spans.append(Span(name, began, self._clock()))

    def result[T](self, future: Future[T]) -> T:
        """What a call gave, waited for. Raises what it raised, or EndedError."""
        if not future.done():
            with self.phase("waiting"):
                while not future.done():
                    self.check()
                    wait([future], LOOK)
        return future.result()
