"""Conversations in step with one model: extended, replied in, forked, and extended again, with the cache kept."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence

from aloe_jax.errors import AloeError
from aloe_jax.sampling.cache import PAGE
from aloe_jax.sampling.conversations import CachedConversation, Prefixes, common_prefix
from aloe_jax.sampling.draw import Settings, checked_settings
from aloe_jax.sampling.engine import Engine
from aloe_jax.sampling.generation import Generation, Reason
from aloe_jax.sampling.row_cache import Asked, RowCache

LEAST_LENGTH = 64  # tokens: of the smallest cache for a prompt and its reply


class Session:
    """Conversations in step: `extend` every one, `reply` in every one, and again.

    A turn computes only its new tokens. `fork` continues a conversation in several ways, whose common tokens are read
    once: they are copied from row to row of the cache. With more conversations than rows, one that has its reply makes
    room for one that waits, and is computed anew at its next turn as far as no other row has its tokens; forks of one
    conversation follow each other, and it keeps its row until they have theirs. On a mesh rows are copied within a
    shard, and forks that are in several shards are read once in each of them. A conversation that reaches its longest
    length stops there.

    Conversations have numbers, from 0 on, which are not used again when one is dropped. At most batch·forks of them
    are alive at a time, and so many rows has the cache, if the sampler has them.
    """

    def __init__(self, sampler: Engine, batch: int, length: int, forks: int = 1, cache: RowCache | None = None) -> None:
        if forks < 1:
            raise AloeError(f"session: forks is {forks} and must be at least 1")
        self._sampler = sampler
        self._length = length
        self._batch, self._forks = batch, forks
        self._conversations: dict[int, CachedConversation] = {}
        self._next = 0  # number of the next conversation
        self._cache = RowCache(sampler, batch * forks, length) if cache is None else cache
        self.begin(batch)

    @property
    def numbers(self) -> list[int]:
        """The conversations that are alive, ascending."""
        return list(self._conversations)

    @property
    def lengths(self) -> list[int]:
        """Tokens of every conversation of `numbers` so far, prompts and replies together."""
        return [len(conversation.tokens) for conversation in self._conversations.values()]

    @property
    def tokens_read(self) -> int:
        """Tokens that were prefilled so far: not those copied from row to row, nor those that a draw begins with."""
        return self._cache.tokens_read

    def tokens(self, number: int) -> list[int]:
        """All tokens of a conversation. Raises AloeError where it was dropped or there is none of this number."""
        return list(self._conversation(number).tokens)

    # ------------------------------------------------------------ which there are

    def begin(self, count: int) -> list[int]:
        """`count` further conversations without tokens; their numbers. AloeError, see `fork`."""
        return self._add([[] for _ in range(count)], None)

    def fork(self, number: int, n: int) -> list[int]:
        """`n` further conversations that start with the tokens that conversation `number` has now; their numbers.

        What they have in common is read once, at the latest at the first reply of one of them. Raises AloeError when
        `number` is no conversation, or more than batch·forks would be alive.
        """
        source = self._conversation(number)
        return self._add([list(source.tokens) for _ in range(n)], source.family)

    def drop(self, numbers: Iterable[int]) -> None:
        """End these conversations: their tokens are gone, their rows are free, their numbers are not used again.

        A reply that one of them is in the middle of (`stream`) gets no more pieces. Raises AloeError when one of
        `numbers` is no conversation or was dropped before; nothing is dropped then.
        """
        ended = self._named(numbers)
        for conversation in ended:
            del self._conversations[conversation.number]
            conversation.alive = False

    def _add(self, tokens: Sequence[list[int]], family: int | None) -> list[int]:
        alive, most = len(self._conversations) + len(tokens), self._batch * self._forks
        if alive > most:
            raise AloeError(
                f"session: {alive} conversations would be alive, batch {self._batch} x forks {self._forks} allow "
                f"{most}; drop some, or open the session with more forks"
            )
        numbers = list(range(self._next, self._next + len(tokens)))
        for number, own in zip(numbers, tokens, strict=True):
            self._conversations[number] = CachedConversation(number, number if family is None else family, own)
        self._next += len(tokens)
        return numbers

    def _conversation(self, number: int) -> CachedConversation:
        if number in self._conversations:
            return self._conversations[number]
        if 0 <= number < self._next:
            raise AloeError(f"conversation {number}: it was dropped; its number is not used again")
        raise AloeError(f"conversation {number}: there is none; the numbers so far are 0 to {self._next - 1}")

    def _named(self, numbers: Iterable[int] | None) -> list[CachedConversation]:
        """The conversations of these numbers, or all."""
        if numbers is None:
            return list(self._conversations.values())
        found: dict[int, CachedConversation] = {}
        for number in numbers:
            if number in found:
                raise AloeError(f"conversation {number}: it is named twice")
            found[number] = self._conversation(number)
        return list(found.values())

    # ------------------------------------------------------------ their tokens

    def extend(self, tokens: Sequence[Sequence[int]], among: Sequence[int] | None = None) -> None:
        """Append tokens to every conversation, or to those of `among`, in its order; one may get none.

        Raises AloeError naming the conversation when it would pass its longest length, an id is outside the
        vocabulary, or there is none of its number; nothing is appended then.
        """
        conversations = self._named(among)
        if len(tokens) != len(conversations):
            raise AloeError(f"session: {len(tokens)} rows of tokens for {len(conversations)} conversations")
        for new, conversation in zip(tokens, conversations, strict=True):
            self._check(conversation.number, len(conversation.tokens) + len(new), new)
        for new, conversation in zip(tokens, conversations, strict=True):
            conversation.tokens.extend(int(token) for token in new)

    def replace(self, number: int, tokens: Sequence[int]) -> None:
        """Make conversation `number` these tokens; as far as it is so already, the cache stays. See `extend`."""
        conversation = self._conversation(number)
        self._check(number, len(tokens), tokens)
        new = [int(token) for token in tokens]
        same = common_prefix(conversation.tokens, new)
        conversation.tokens = new
        keep = min(same, len(tokens) - 1)  # the newest is read again, for what follows it
        if keep < conversation.cached:
            whole = conversation.cached // PAGE * PAGE  # of older tokens only full pages can be kept
            conversation.cached = max(0, keep if keep >= whole else keep // PAGE * PAGE)

    def _check(self, number: int, length: int, new: Sequence[int]) -> None:
        vocab = self._sampler.model.spec.vocab
        if length > self._length:
            raise AloeError(
                f"conversation {number}: {length} tokens pass max_length {self._length}; shorten it or raise max_length"
            )
        for token in new:
            if not 0 <= token < vocab:
                raise AloeError(f"conversation {number}: token {token} is outside the model's vocabulary of {vocab}")

    # ------------------------------------------------------------ replies

    def reply(
        self,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seeds: Sequence[int] | None = None,
        stop: Sequence[int] | None = None,
        *,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        among: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """The new tokens of every conversation. See `replies`."""
        drawn = self.replies(
            max_new_tokens, temperature, top_k, top_p, seeds, stop,
            min_p=min_p, repetition_penalty=repetition_penalty, among=among,
        )  # fmt: skip
        return [generation.tokens for generation in drawn]

    def replies(
        self,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seeds: Sequence[int] | None = None,
        stop: Sequence[int] | None = None,
        *,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        among: Sequence[int] | None = None,
        logps: bool = False,
    ) -> list[Generation]:
        """Up to `max_new_tokens` a conversation, ending early with a stop token (included) or at the longest length.

        temperature 0 takes the likeliest token; top_k 0, top_p 1 and min_p 0 do not cut; repetition_penalty is for
        all tokens that the conversation has (`draw.penalised`). `among`: the numbers of the conversations to reply
        in (default: all), in whose order the replies come. `seeds`: an int for each of them (default: its number);
        what one draws depends on its seed and its tokens, not on the others. `stop`: ids that end a reply (default:
        the model's end-of-sequence ids). AloeError when a conversation has no tokens at all, was dropped or is named
        twice, or on a setting without meaning.
        """
        pieces = self.stream(
            max_new_tokens, temperature, top_k, top_p, seeds, stop,
            min_p=min_p, repetition_penalty=repetition_penalty, among=among, logps=logps, every=PAGE,
        )  # fmt: skip
        numbers = self.numbers if among is None else among
        drawn = {number: _nothing(None, logps) for number in numbers}
        for number, piece in pieces:
            drawn[number] = drawn[number].followed_by(piece)
        return list(drawn.values())

    def stream(
        self,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seeds: Sequence[int] | None = None,
        stop: Sequence[int] | None = None,
        *,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        among: Sequence[int] | None = None,
        logps: bool = False,
        every: int = 8,
    ) -> Generator[tuple[int, Generation]]:
        """As `replies`, piece by piece: (conversation, its next tokens), at most `every` of them at a time.

        The last piece of a conversation has the reason. A caller that stops listening leaves all conversations as they
        are after the pieces of the device's last call, some of which may not have been reported. Where the sampler's
        weights are updated between two pieces, what follows is drawn with the new ones.
        """
        if max_new_tokens < 1:
            raise AloeError(f"max_new_tokens must be positive, not {max_new_tokens}")
        settings = checked_settings(temperature, top_k, top_p, min_p, repetition_penalty)
        conversations = self._named(among)
        if seeds is not None and len(seeds) != len(conversations):
            raise AloeError(f"session: {len(seeds)} seeds for {len(conversations)} conversations")
        for conversation in conversations:
            if not conversation.tokens:
                raise AloeError(f"conversation {conversation.number}: has no tokens; extend it first")
        own = [conversation.number for conversation in conversations] if seeds is None else seeds
        ids = self._sampler.stop if stop is None else tuple(stop)
        seed_of = dict(zip(conversations, own, strict=True))
        return self._stream(max_new_tokens, settings, seed_of, ids, logps, min(every, PAGE))

    def _stream(
        self,
        most: int,
        settings: Settings,
        seeds: Mapping[CachedConversation, int],
        stop: tuple[int, ...],
        logps: bool,
        every: int,
    ) -> Generator[tuple[int, Generation]]:
        left = {conversation: min(most, self._length - len(conversation.tokens)) for conversation in seeds}
        full = [conversation for conversation in left if left[conversation] <= 0]
        for conversation in full:
            del left[conversation]
            yield conversation.number, _nothing("length", logps)
        waiting = self._cache.ordered(left)
        active: list[CachedConversation] = []
        while True:
            active, waiting = ([one for one in ones if one.alive] for ones in (active, waiting))
            if not (active or waiting):
                return
            prefixes = Prefixes()
            try:
                self._sampler.check_weights()
                self._cache.renew()
                while waiting and len(active) < self._cache.size:
                    active.append(conversation := waiting.pop(0))
                    self._cache.seat(conversation, active, waiting, prefixes)
                self._cache.read(active, prefixes)
                asked = {one: Asked(min(left[one], every), seeds[one]) for one in active}
                drawn = self._cache.draw(asked, settings, stop, logps, others_wait=bool(waiting))
            except BaseException:
                self._cache.forget()
                raise
            pieces = []
            for conversation in active:
                row = conversation.row
                count = int(drawn.made[row])
                tokens = drawn.tokens[row, :count].tolist()
                conversation.tokens += tokens
                conversation.cached += count
                left[conversation] -= count
                reason = self._reason(conversation, left[conversation], stop)
                own, cut = (x[row, :count].tolist() if logps else None for x in (drawn.logps, drawn.drawn_logps))
                pieces.append((conversation, Generation(tokens, reason, own, cut)))
            active = [conversation for conversation, piece in pieces if piece.reason is None]
            yield from ((conversation.number, piece) for conversation, piece in pieces)

    def _reason(self, conversation: CachedConversation, left: int, stop: tuple[int, ...]) -> Reason | None:
        if conversation.tokens[-1] in stop:
            return "stop"
        if left:
            return None
        return "length" if len(conversation.tokens) >= self._length else "max_new_tokens"


def _nothing(reason: Reason | None, logps: bool) -> Generation:
    return Generation([], reason, [] if logps else None, [] if logps else None)
