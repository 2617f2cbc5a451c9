"""One conversation with a model as it goes on: replies as text piece by piece, exchanges taken back."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aloe_jax.conversation import Message
from aloe_jax.data.template import ChatTemplate, UnstableTemplateError
from aloe_jax.errors import AloeError
from aloe_jax.sampling.generation import Reason
from aloe_jax.sampling.settings import ReplySettings

if TYPE_CHECKING:
    from aloe_jax.sampling.sampler import Sampler

EVERY = 4  # tokens that come at a time
HALF = "\ufffd"  # what the bytes of a character decode to that is not whole yet


@dataclass
class Talk:
    """A conversation of messages, and of the tokens that the model was fed and drew.

    `ended` says how the last reply ended; None when it was broken off.
    """

    sampler: Sampler
    template: ChatTemplate
    sampling: ReplySettings
    system: str | None = None
    seed: int = 0
    messages: list[Message] = field(init=False)
    ended: Reason | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._session = self.sampler.session(1)
        self.reset()

    def reset(self) -> None:
        """Forget all but the system message."""
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        self._tokens: list[list[int]] = []  # after every exchange, all ids up to its end

    @property
    def exchanges(self) -> int:
        """How many user messages have a reply."""
        return len(self._tokens)

    @property
    def length(self) -> int:
        """Tokens so far."""
        return len(self._tokens[-1]) if self._tokens else 0

    def undo(self) -> bool:
        """Take the last exchange back; False when there is none."""
        if not self._tokens:
            return False
        self._tokens.pop()
        del self.messages[-2:]
        return True

    def say(self, text: str) -> Generator[str]:
        """The reply to `text`, piece by piece. A caller that stops listening leaves a reply that ends there.

        Raises AloeError, and forgets `text`, when there is no room for a reply to it.
        """
        asked: Message = {"role": "user", "content": text}
        prompt = self._prompt([*self.messages, asked])
        room = self.sampler.max_length - len(prompt) - 1  # for an end of turn where none was drawn
        if room < 1:
            raise AloeError(
                f"the conversation would have {len(prompt)} tokens and the model takes {self.sampler.max_length}: "
                "take exchanges back or begin anew"
            )
        self._session.replace(0, prompt)
        self.ended = None
        ids: list[int] = []
        shown = ""
        pieces = self._session.stream(
            min(self.sampling.max_new_tokens, room),
            temperature=self.sampling.temperature,
            top_k=self.sampling.top_k,
            top_p=self.sampling.top_p,
            min_p=self.sampling.min_p,
            repetition_penalty=self.sampling.repetition_penalty,
            seeds=[self.seed + self.exchanges],
            stop=self.template.stop,
            every=EVERY,
        )
        try:
            for _, piece in pieces:
                ids += piece.tokens
                self.ended = piece.reason
                whole = self.template.decode(ids)
                if self.ended is not None or not whole.endswith(HALF):
                    shown, new = whole, whole[len(shown) :]
                    yield new
            if self.ended == "max_new_tokens" and room < self.sampling.max_new_tokens:
                self.ended = "length"
        finally:
            pieces.close()
            if ids:  # else it was broken off before anything was said
                self._keep(asked, prompt, ids)

    def _keep(self, asked: Message, prompt: list[int], ids: list[int]) -> None:
        """The exchange becomes part of the conversation; a reply that was cut is closed for the model."""
        if ids[-1:] != [self.template.stop[0]]:
            ids = [*ids, self.template.stop[0]]
        self.messages += [asked, {"role": "assistant", "content": self.template.decode(ids)}]
        self._tokens.append([*prompt, *ids])

    def _prompt(self, messages: list[Message]) -> list[int]:
        try:
            return [*(self._tokens[-1] if self._tokens else ()), *self.template.continuation(messages)]
        except UnstableTemplateError:
            return self.template.prompt(messages)
