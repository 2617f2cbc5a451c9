"""What a run may spend: a call that could overshoot is not made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aloe_jax.errors import AloeError
from aloe_jax.llm.protocol import LLM, Completion, PendingError, Request
from aloe_jax.llm.settings import RoleSettings

CHARACTERS_PER_TOKEN = 4  # of English prose, for what is not known before a call


class BudgetError(AloeError):
    """The next call would exceed the limit of calls or dollars. Whatever is finished is kept."""


def expected_tokens(text: str) -> int:
    """About how many tokens a text has."""
    return 1 + len(text) // CHARACTERS_PER_TOKEN


class Budget:
    """Counts calls and dollars of one run, for several threads; None does not limit.

    A call under way holds back the most that it can cost: its prompt and a reply as long as allowed. So the
    limit is not overshot by what is in flight, but for an error in the guess at the prompt's tokens.
    """

    def __init__(self, max_cost: float | None = None, max_calls: int | None = None) -> None:
        self.max_cost, self.max_calls = max_cost, max_calls
        self.cost, self.calls = 0.0, 0
        self._held = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def reserved(self, llm: LLM, request: Request) -> Iterator[Callable[[Completion], None]]:
        """Hold back room for one call; the value is to be called with its completion.

        Raises BudgetError when there is no room. A call that fails gives its room back.
        """
        most = self._most(llm, request)
        with self._lock:
            if self.max_calls is not None and self.calls >= self.max_calls:
                raise BudgetError(f"max_calls: this run has made its {self.max_calls:,} calls")
            if self.max_cost is not None and self.cost + self._held + most > self.max_cost:
                raise BudgetError(
                    f"max_cost: this run has spent ${self.cost:.4f}, and the next call could cost ${most:.4f}, "
                    f"which ${self.max_cost:g} do not cover"
                )
            self.calls += 1
            self._held += most

        def settle(completion: Completion) -> None:
            with self._lock:
                self.cost += completion.cost or 0.0

        try:
            yield settle
        except PendingError:
            with self._lock:
                self.calls -= 1  # nothing was asked yet
            raise
        finally:
            with self._lock:
                self._held -= most

    def _most(self, llm: LLM, request: Request) -> float:
        role: RoleSettings | None = getattr(llm, "role", None)
        if role is None or role.price is None:
            return 0.0
        return role.price.cost(expected_tokens(request.system + request.prompt), role.max_output_tokens)
