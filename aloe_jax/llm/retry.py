"""The retry layer: turns a back end that makes one attempt into a language model that persists."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from aloe_jax.llm import notices
from aloe_jax.llm.budget import expected_tokens
from aloe_jax.llm.failures import GarbledError, TransientError
from aloe_jax.llm.limits import Limits
from aloe_jax.llm.protocol import Completion, Request, UnavailableError
from aloe_jax.llm.settings import RoleSettings

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds; the bound of a random wait, doubled with every failed attempt
REPORTED = 5.0  # seconds; what a server asks to wait beyond them is reported
_EXPECTED_REPLY = 256  # tokens counted for a reply until it is there
_DRAWS = 3  # of an answer that the server throws away because of its form

FaultHook = Callable[[str, str, str], None]
"""(model, role, fault): hears of every attempt that failed, by the reason for which it is repeated ("503 Service
Unavailable", "timeout", "400 json_validate_failed"), and once of every setting that a server does not take ("left
out: seed"). Counts by reason are what it adds up to; `notices.heard_by` hears of long waits, in words."""


class Backend(Protocol):
    """A way to reach a model, without any persistence of its own."""

    name: str

    def ask(self, request: Request, timeout: float) -> Completion:
        """Make ONE attempt, of `timeout` seconds.

        Raises TransientError when another attempt may succeed, GarbledError when another draw may, AloeError when
        none will.
        """
        ...


@dataclass(frozen=True)
class Patience:
    """Makes an attempt again while it fails transiently; `attempts` in all.

    Waits are random between 0 and a bound that doubles up to 60 seconds ("full jitter": clients that failed
    together do not come back together). What the server asks to wait is waited in any case, and added, up to
    `longest` seconds: one that asks for more is taken to be out of reach. Waits that it asks for are reported.
    """

    attempts: int
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[float, float], float] = random.uniform
    longest: float = 300.0
    setting: str = "roles.longest_wait"

    def call[T](self, once: Callable[[], T], who: str, failed: Callable[[TransientError], None]) -> tuple[T, int]:
        """The value of `once`, and the number of attempts. `failed` is called for every failed one.

        Raises UnavailableError naming `who`, the last fault and the attempts when all have failed.
        """
        for attempt in range(1, self.attempts + 1):
            try:
                return once(), attempt
            except TransientError as error:
                fault = error
            failed(fault)
            asked = fault.retry_after or 0.0
            said = str(fault).rstrip(" .")
            if asked > self.longest:
                raise UnavailableError(
                    f"{who}: the server asks to wait {asked:,.0f} seconds ({said}), and {self.setting} is "
                    f"{self.longest:,g}; run again then"
                )
            if attempt < self.attempts:
                if asked > REPORTED:
                    notices.waiting(who, asked, f"{who}: waiting {asked:,.0f} s, as the server asks ({said})")
                self.sleep(asked + self.draw(0.0, min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1))))
        times = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        raise UnavailableError(f"{who}: no answer in {times}, the last fault: {said}; run again later")


class Persistent:
    """A language model over a back end: attempts, waits and limits as its role's settings say."""

    def __init__(
        self,
        backend: Backend,
        role: RoleSettings,
        limits: Limits,
        *,
        on_fault: FaultHook | None = None,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.name = backend.name
        self.role = role
        self._backend, self._limits, self._on_fault = backend, limits, on_fault
        self._patience = Patience(role.attempts, sleep, draw, role.longest_wait)
        self._reached = self._warned = False

    def complete(self, request: Request) -> Completion:
        """Answer one request. May be called from several threads.

        An answer that the server throws away is drawn again with seeds that follow from the request's, and is
        "unreadable" when that goes on. Raises UnavailableError when all attempts failed, another AloeError when no
        attempt would succeed.
        """
        dialect = getattr(self._backend, "dialect", None)
        if dialect is not None and self._on_fault is not None:
            hook = self._on_fault
            dialect.on_left_out = lambda name: hook(self.name, request.role, f"left out: {name}")
        begun: list[float] = []
        for draw in range(_DRAWS):
            seed = request.seed if draw == 0 else (request.seed + draw * 0x3C6EF372) % 2**31
            asked = replace(request, seed=seed)
            try:
                completion = self._attempt(asked, begun)
                break
            except GarbledError as error:
                if self._on_fault is not None:
                    self._on_fault(self.name, request.role, error.fault)
                completion = Completion("", outcome="unreadable", detail=str(error))
        return replace(completion, cost=self._cost(request, completion), attempts=len(begun))

    def _attempt(self, request: Request, begun: list[float]) -> Completion:
        """One draw, with its attempts; every one adds its time to `begun`."""
        estimate = expected_tokens(request.system + request.prompt)
        estimate += min(self.role.max_output_tokens, _EXPECTED_REPLY)

        def once() -> Completion:
            slot = self._limits.acquire(estimate)
            spent = 0
            begun.append(time.monotonic())
            try:
                completion = self._backend.ask(request, self.role.timeout)
                self._reached = True
                # A server that does not say what it took is counted by the estimate.
                spent = completion.input_tokens + completion.output_tokens or estimate
                return completion
            finally:
                self._limits.settle(slot, spent)

        def failed(error: TransientError) -> None:
            if error.fault == "connection lost" and not self._reached and not self._warned:
                self._warned = True
                where = f" at {self.role.endpoint}" if self.role.endpoint else ""
                notices.report(
                    f"{who}: nothing answers{where} so far ({error.detail or 'no connection'}); is the server running? "
                    f"Trying again, {self.role.attempts} attempts for each call"
                )
            if self._on_fault is not None:
                self._on_fault(self.name, request.role, error.fault)
            # What one of us is asked to wait holds for all who speak to the model.
            if error.retry_after is not None and error.retry_after <= self.role.longest_wait:
                self._limits.pause(error.retry_after)

        who = f"roles.{request.role}: {self.name} ({self.role.provider})"
        return self._patience.call(once, who, failed)[0]

    def _cost(self, request: Request, completion: Completion) -> float | None:
        """Dollars. Where the server does not say how much it read or wrote, a guess stands in for it."""
        price = self.role.price
        if price is None:
            return None
        read, written = completion.input_tokens, completion.output_tokens
        if completion.text:
            read = read or expected_tokens(request.system + request.prompt)
            written = written or expected_tokens(completion.text)
        return price.cost(read, written)
