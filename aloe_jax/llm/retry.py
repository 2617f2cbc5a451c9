"""The retry layer: turns a back end that makes one attempt into a language model that persists."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from aloe_jax import config
from aloe_jax.llm.budget import expected_tokens
from aloe_jax.llm.faults import TransientError
from aloe_jax.llm.limits import Limits
from aloe_jax.llm.protocol import Completion, Request, UnavailableError

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds; the bound of a random wait, doubled with every failed attempt
PATIENCE = 3600.0  # a server that asks for a longer wait is taken to be out of reach
_EXPECTED_REPLY = 256  # tokens counted for a reply until it is there

FaultHook = Callable[[str, str, str], None]  # (model, role, fault), for every failed attempt


class Backend(Protocol):
    """A way to reach a model, without any persistence of its own."""

    name: str

    def ask(self, request: Request, timeout: float) -> Completion:
        """Make ONE attempt, of `timeout` seconds.

        Raises TransientError when another attempt may succeed, AloeError when none will.
        """
        ...


@dataclass(frozen=True)
class Patience:
    """Makes an attempt again while it fails transiently; `attempts` in all.

    Waits are random between 0 and a bound that doubles up to 60 seconds ("full jitter": clients that failed
    together do not come back together). What the server asks to wait is waited in any case, and added.
    """

    attempts: int
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[float, float], float] = random.uniform

    def call[T](self, once: Callable[[], T], who: str, failed: Callable[[TransientError], None]) -> tuple[T, int]:
        """The value of `once`, and the number of attempts. `failed` is told of every failed one.

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
            if asked > PATIENCE:
                raise UnavailableError(f"{who}: the server asks to wait {asked:,.0f} seconds ({said}); run again then")
            if attempt < self.attempts:
                self.sleep(asked + self.draw(0.0, min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1))))
        times = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        raise UnavailableError(f"{who}: no answer in {times}, the last fault: {said}; run again later")


class Persistent:
    """A language model over a back end: attempts, waits and limits as its role's settings say."""

    def __init__(
        self,
        backend: Backend,
        role: config.Role,
        limits: Limits,
        *,
        on_fault: FaultHook | None = None,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.name = backend.name
        self.role = role
        self._backend, self._limits, self._on_fault = backend, limits, on_fault
        self._patience = Patience(role.attempts, sleep, draw)

    def complete(self, request: Request) -> Completion:
        """Answer one request. May be called from several threads.

        Raises UnavailableError when all attempts failed, another AloeError when no attempt would succeed.
        """
        estimate = expected_tokens(request.system + request.prompt)
        estimate += min(self.role.max_output_tokens, _EXPECTED_REPLY)

        def once() -> Completion:
            slot = self._limits.acquire(estimate)
            spent = 0
            try:
                completion = self._backend.ask(request, self.role.timeout)
                # A server that does not say what it took is held to the estimate.
                spent = completion.input_tokens + completion.output_tokens or estimate
                return completion
            finally:
                self._limits.settle(slot, spent)

        def failed(error: TransientError) -> None:
            if self._on_fault is not None:
                self._on_fault(self.name, request.role, error.fault)
            # What one of us is asked to wait holds for all who speak to the model.
            if error.retry_after is not None and error.retry_after <= PATIENCE:
                self._limits.pause(error.retry_after)

        who = f"roles.{request.role}: {self.name} ({self.role.provider})"
        completion, attempts = self._patience.call(once, who, failed)
        price = self.role.price
        cost = None if price is None else price.cost(completion.input_tokens, completion.output_tokens)
        return replace(completion, cost=cost, attempts=attempts)
