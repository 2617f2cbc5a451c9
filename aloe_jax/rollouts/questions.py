"""What rollouts ask of models: users, judges and inducers, every question with seeds of its own.

The same question has the same seed, so that it is asked once in a run, whatever asks it: the user's answer to a reply
is also the next message of a conversation that goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence

from aloe_jax.conversation import Message, Persona
from aloe_jax.roles import Cast, persistent


class Questions:
    """Asks the models of a run; from several threads. Everything raises RoleError where there is no usable answer."""

    def __init__(self, cast: Cast, seed: int) -> None:
        """`seed`: of the run."""
        self._cast, self._seed = cast, seed

    def user_message(self, conversation: str, persona: Persona, history: Sequence[Message]) -> str:
        """What the user says next; `history` is empty or ends with a reply."""
        return persistent(
            lambda seed: self._cast.user_message(persona, history, seed),
            self._seed, "user", conversation, len(history) // 2, again=False,
        )  # fmt: skip

    def rating(self, persona: Persona, history: Sequence[Message], reply: str, seed: int) -> int:
        """The judge's rating of a reply to `history`, from 1 to 5; `seed` is that of the reply's rewards."""
        return persistent(lambda own: self._cast.judge(persona, history, reply, own).rating, seed, "judge", again=False)

    def induced(self, conversation: str, persona: Persona, messages: Sequence[str]) -> str:
        """What the inducer recovers of the persona from the user's messages, in the persona's own words."""
        profile, personality = persistent(
            lambda seed: self._cast.infer(persona, messages, seed),
            self._seed, "inducer", conversation, again=False,
        )  # fmt: skip
        return f"{profile}\n{personality}"
