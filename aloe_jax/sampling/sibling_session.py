"""Conversations that are replied to several times at once, and go on from one of the replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aloe_jax.errors import AloeError
from aloe_jax.sampling.conversations import CachedConversation, Prefixes
from aloe_jax.sampling.draw import checked_settings
from aloe_jax.sampling.engine import Engine
from aloe_jax.sampling.generation import Generation, Reason
from aloe_jax.sampling.programs import Drawn
from aloe_jax.sampling.row_cache import Asked
from aloe_jax.sampling.session import Session
from aloe_jax.sampling.sibling_cache import SiblingCache


@dataclass(frozen=True)
class _DrawnReplies:
    """What was drawn to a conversation, and how many tokens it had then."""

    length: int
    replies: list[Generation]


class SiblingSession(Session):
    """As Session, and `siblings` replies can be drawn to a conversation at a time: its tokens are cached once.

    The sampler's `rows` count replies that are drawn together, so that many siblings want fewer rows of the cache.
    """

    def __init__(self, sampler: Engine, batch: int, length: int, siblings: int, forks: int = 1) -> None:
        if siblings < 1:
            raise AloeError(f"session: siblings is {siblings} and must be at least 1")
        self._siblings = SiblingCache(sampler, batch * forks, length, siblings)
        super().__init__(sampler, batch, length, forks, self._siblings)
        self._drawn: dict[int, _DrawnReplies] = {}

    def sibling_replies(
        self,
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[Sequence[int]],
        among: Sequence[int],
        *,
        top_k: int = 0,
        top_p: float = 1.0,
        stop: Sequence[int] | None = None,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        logps: bool = False,
    ) -> list[list[Generation]]:
        """The siblings of every conversation of `among`, one for each of its `seeds`; nothing is appended to it.

        What a sibling draws depends on its seed and the conversation's tokens alone: what `replies` draws of a fork.
        Raises AloeError as `replies` does, and where a conversation has another number of seeds than the session has
        siblings.
        """
        if max_new_tokens < 1:
            raise AloeError(f"max_new_tokens must be positive, not {max_new_tokens}")
        settings = checked_settings(temperature, top_k, top_p, min_p, repetition_penalty)
        conversations = self._named(among)
        if len(seeds) != len(conversations):
            raise AloeError(f"session: seeds for {len(seeds)} of {len(conversations)} conversations")
        for own, conversation in zip(seeds, conversations, strict=True):
            if len(own) != self._siblings.siblings:
                raise AloeError(f"session: {len(own)} seeds for {self._siblings.siblings} siblings")
            if not conversation.tokens:
                raise AloeError(f"conversation {conversation.number}: has no tokens; extend it first")
        ids = self._sampler.stop if stop is None else tuple(stop)
        seeds_of = dict(zip(conversations, seeds, strict=True))
        waiting, cache = self._cache.ordered(conversations), self._siblings
        while waiting:
            active, waiting = waiting[: cache.size], waiting[cache.size :]
            prefixes = Prefixes()
            try:
                self._sampler.check_weights()
                cache.renew()
                for conversation in active:
                    cache.seat(conversation, active, waiting, prefixes)
                cache.read(active, prefixes)
                left = {one: min(max_new_tokens, self._length - len(one.tokens)) for one in active}
                asked = {one: [Asked(max(left[one], 0), seed) for seed in seeds_of[one]] for one in active}
                drawn = cache.draw_siblings(asked, settings, ids, logps, max_new_tokens)
            except BaseException:
                cache.forget()
                raise
            for one in active:
                self._drawn[one.number] = _DrawnReplies(len(one.tokens), self._replies(one, drawn, ids, logps))
        return [self._drawn[one.number].replies for one in conversations]

    def _replies(
        self, conversation: CachedConversation, drawn: Drawn, stop: Sequence[int], logps: bool
    ) -> list[Generation]:
        """The siblings of one conversation, from the arrays of all."""
        assert conversation.row is not None
        count = self._siblings.siblings
        found = []
        for at in range(conversation.row * count, (conversation.row + 1) * count):
            made = int(drawn.made[at])
            tokens: list[int] = drawn.tokens[at, :made].tolist()
            full = len(conversation.tokens) + made >= self._length
            reason: Reason = "stop" if tokens and tokens[-1] in stop else "length" if full else "max_new_tokens"
            model, cut = (x[at, :made].tolist() if logps else None for x in (drawn.logps, drawn.drawn_logps))
            found.append(Generation(tokens, reason, model, cut))
        return found

    def choose(self, siblings: Mapping[int, int]) -> None:
        """Append to conversations, by number, one of the siblings that were drawn last, by its position among them.

        Their keys and values stay cached. Raises AloeError where none were drawn, or the conversation has changed
        since; nothing is appended then.
        """
        for number, position in siblings.items():
            tokens, drawn = self._conversation(number).tokens, self._drawn.get(number)
            if drawn is None or drawn.length != len(tokens):
                raise AloeError(f"conversation {number}: no siblings were drawn to what it is now")
            if not 0 <= position < len(drawn.replies):
                raise AloeError(f"conversation {number}: has siblings 0 to {len(drawn.replies) - 1}, not {position}")
        replies = {
            self._conversation(number): (position, self._drawn[number].replies[position].tokens)
            for number, position in siblings.items()
        }
        try:
            self._siblings.keep({one: (position, len(tokens)) for one, (position, tokens) in replies.items()})
        except BaseException:
            self._siblings.forget()
            raise
        for conversation, (_, tokens) in replies.items():
            del self._drawn[conversation.number]
            conversation.tokens += tokens
