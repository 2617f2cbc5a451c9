"""What rollouts ask of models: users, judges and inducers, every question with seeds of its own.

The same question has the same seed, so that it is asked once in a run, whatever asks it: the user's answer to a reply
is also the next message of a conversation that goes on from there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from aloe_jax.conversation import Message, Persona
from aloe_jax.roles import Cast, persistent
from aloe_jax.rollouts.drawing import EndedError


class Questions:
    """Asks the models of a run; from several threads.

    Everything raises RoleError where there is no usable answer, and EndedError where a call would begin after `end`.
    """

    def __init__(self, cast: Cast, seed: int) -> None:
        """`seed`: of the run."""
        self._cast, self._seed = cast, seed
        self._ended = threading.Event()

    def end(self) -> None:
        """Begin no call any more; what is under way goes on."""
        self._ended.set()

    def _answer[T](self, ask: Callable[[int], T], *parts: str | int) -> T:
        """`persistent`, which looks before every attempt whether calls may still begin."""

        def attempt(seed: int) -> T:
            if self._ended.is_set():
                raise EndedError("rollouts: their drawing has ended, no call begins any more")
            return ask(seed)

        return persistent(attempt, *parts, again=False)

    def user_message(self, conversation: str, persona: Persona, history: Sequence[Message]) -> str:
        """What the user says next; `history` is empty or ends with a reply."""
        return self._answer(
            lambda seed: self._cast.user_message(persona, history, seed),
            self._seed, "user", conversation, len(history) // 2,
        )  # fmt: skip

    def rating(self, persona: Persona, history: Sequence[Message], reply: str, seed: int) -> int:
        """The judge's rating of a reply to `history`, from 1 to 5; `seed` is that of the reply's rewards."""
        return self._answer(lambda own: self._cast.judge(persona, history, reply, own).rating, seed, "judge")

    def induced(self, conversation: str, persona: Persona, messages: Sequence[str]) -> str:
        """What the inducer recovers of the persona from the user's messages, in the persona's own words."""
        profile, personality = self._answer(
            lambda seed: self._cast.infer(persona, messages, seed),
            self._seed, "inducer", conversation,
        )  # fmt: skip
        return f"{profile}\n{personality}"
