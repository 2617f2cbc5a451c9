"""A model, its devices, and the settings under which sessions draw from it."""

from __future__ import annotations

from collections.abc import Sequence

from aloe_jax.sampling.engine import Engine
from aloe_jax.sampling.session import LEAST_LENGTH, Session
from aloe_jax.sampling.shapes import bucket
from aloe_jax.sampling.sibling_session import SiblingSession


class Sampler(Engine):
    """Draws replies from `model`. Compiled functions are shared by all samplers of models of one shape.

    `max_length` bounds a conversation's tokens, prompts and replies together; the model's own maximum bounds it too.
    `rows` conversations at most are drawn at a time, and have their keys and values in the cache; the others wait.
    `cache` is how these are stored: in the type of activations, in bfloat16, or in int8 with a scale a token and head.
    `tokenizer` is only asked for its end-of-sequence id, where the model's spec has none.

    The model's parameters stay where they are; on a mesh, rows are spread over data and fsdp, heads over tensor. The
    layers' weights are stored a second time, as a loop over tokens reads them.
    """

    def session(self, batch: int, length: int | None = None, forks: int = 1) -> Session:
        """`batch` empty conversations of at most `length` tokens each (default: max_length).

        With `forks` (at least 1, else AloeError) up to batch·forks of them may be alive at a time, and the cache has
        rows for so many, up to the sampler's `rows`. Sibling replies, of which one goes on, need no forks: see
        `sibling_session`.
        """
        return Session(self, batch, self.max_length if length is None else min(length, self.max_length), forks)

    def sibling_session(self, batch: int, siblings: int, length: int | None = None, forks: int = 1) -> SiblingSession:
        """`batch` empty conversations, to each of which `siblings` replies are drawn at a time."""
        length = self.max_length if length is None else min(length, self.max_length)
        return SiblingSession(self, batch, length, siblings, forks)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seeds: Sequence[int] | None = None,
        stop: Sequence[int] | None = None,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
    ) -> list[list[int]]:
        """The continuation of every prompt, new tokens only. See `Session.replies`; a session of its own."""
        needed = bucket(max(map(len, prompts), default=0) + max(max_new_tokens, 0), LEAST_LENGTH)
        session = self.session(len(prompts), needed)
        session.extend(prompts)
        return session.reply(
            max_new_tokens, temperature, top_k, top_p, seeds, stop, min_p=min_p, repetition_penalty=repetition_penalty
        )
