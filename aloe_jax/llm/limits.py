"""Requests and tokens per minute, shared by all roles that speak to one model."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

WINDOW = 60.0  # seconds
_TICK = 1e-6  # seconds that are no wait: what rounding leaves of one


@dataclass(eq=False)
class AdmittedRequest:
    """One request that was let through, and the tokens that it counts for."""

    start: float
    tokens: int
    counted: bool = True  # still within the window


class Limits:
    """Lets requests through so that no span of 60 seconds holds more of them, or of their tokens, than allowed.

    For several threads; who waits sleeps until there is room, one at a time in line. Tokens are counted by an
    estimate when the request starts and by the server's figure once it is known. None does not limit.
    """

    def __init__(
        self,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Condition, float], object] = threading.Condition.wait,
    ) -> None:
        self.requests_per_minute, self.tokens_per_minute = requests_per_minute, tokens_per_minute
        self._clock, self._wait = clock, wait
        self._line = threading.Lock()  # taken by the thread that waits for room; the others queue behind it
        self._changed = threading.Condition()  # guards what follows; notified when room may have come early
        self._slots: deque[AdmittedRequest] = deque()
        self._tokens = 0  # of all slots
        self._paused_until = clock()

    def acquire(self, tokens: int) -> AdmittedRequest:
        """Wait until a request of about so many tokens may start, and count it.

        A request of more tokens than a minute allows waits until it is the only one.
        """
        with self._line, self._changed:
            while (seconds := self._until_room(tokens)) > _TICK:
                self._wait(self._changed, seconds)
            slot = AdmittedRequest(self._clock(), tokens)
            self._slots.append(slot)
            self._tokens += tokens
            return slot

    def settle(self, slot: AdmittedRequest, tokens: int) -> None:
        """Replace the estimate of a request that was let through by what it really took."""
        with self._changed:
            if slot.counted:
                self._tokens += tokens - slot.tokens
                slot.tokens = tokens
                self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Let nothing through for so long: the server has asked one of us to wait."""
        with self._changed:
            self._paused_until = max(self._paused_until, self._clock() + seconds)

    def _until_room(self, tokens: int) -> float:
        """Seconds until a request may start if nothing else changes; 0 or less: now."""
        now = self._clock()
        while self._slots and self._slots[0].start + WINDOW <= now:
            old = self._slots.popleft()
            old.counted = False
            self._tokens -= old.tokens
        start = self._paused_until
        if self.requests_per_minute is not None and len(self._slots) >= self.requests_per_minute:
            start = max(start, self._slots[len(self._slots) - self.requests_per_minute].start + WINDOW)
        if self.tokens_per_minute is not None:
            over = self._tokens + tokens - self.tokens_per_minute
            for slot in self._slots:
                if over <= 0:
                    break
                over -= slot.tokens
                start = max(start, slot.start + WINDOW)
        return start - now
