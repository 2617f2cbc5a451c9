"""Conversations in step with one model: extended, replied in, and extended again, with the cache kept."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from aloe_jax.errors import AloeError
from aloe_jax.sampling import programs
from aloe_jax.sampling.cache import PAGE, Cache, block_sizes
from aloe_jax.sampling.draw import Settings, checked_settings
from aloe_jax.sampling.engine import Engine
from aloe_jax.sampling.generation import Generation, Reason

LEAST_LENGTH = 64  # tokens: of the smallest cache for a prompt and its reply
READ = 4  # rows of a shard, at least, of which a page each is read at a time


def bucket(size: int, least: int) -> int:
    """The first of least, 2 least, 4 least, ... that is not below `size`."""
    while least < size:
        least *= 2
    return least


@dataclass
class _Conversation:
    tokens: list[int] = field(default_factory=list)
    cached: int = 0  # how many of them are in the cache
    row: int | None = None  # of the cache

    @property
    def unread(self) -> int:
        """Tokens to bring into the cache before the newest one is read and the next drawn."""
        return len(self.tokens) - 1 - self.cached


class Session:
    """Conversations in step: `extend` every one, `reply` in every one, and again.

    A turn computes only its new tokens. With more conversations than rows, one that has its reply makes room for one
    that waits, and is computed anew at its next turn. A conversation that reaches its longest length stops there.
    """

    def __init__(self, sampler: Engine, batch: int, length: int) -> None:
        self._sampler = sampler
        self._length = length
        self._conversations = [_Conversation() for _ in range(batch)]
        self._rows = min(bucket(batch, sampler.shards), sampler.rows)
        self._owners: list[int | None] = [None] * self._rows
        rows = self._rows // sampler.shards
        # Rows that are extended together. A CPU is quickest with scores that its caches hold, others with more of them.
        self._group = min(rows, READ if jax.default_backend() == "cpu" else max(READ, rows // 4)) * sampler.shards
        self._made: Cache | None = None
        self._unread_context: jax.Array | None = None

    @property
    def lengths(self) -> list[int]:
        """Tokens of every conversation so far, prompts and replies together."""
        return [len(conversation.tokens) for conversation in self._conversations]

    def extend(self, tokens: Sequence[Sequence[int]]) -> None:
        """Append tokens to every conversation; one may get none.

        Raises AloeError naming the row when it would pass its longest length or an id is outside the vocabulary;
        nothing is appended then.
        """
        if len(tokens) != len(self._conversations):
            raise AloeError(f"session: {len(tokens)} rows of tokens for {len(self._conversations)} conversations")
        for number, (new, conversation) in enumerate(zip(tokens, self._conversations, strict=True)):
            self._check(number, len(conversation.tokens) + len(new), new)
        for new, conversation in zip(tokens, self._conversations, strict=True):
            conversation.tokens.extend(int(token) for token in new)

    def replace(self, number: int, tokens: Sequence[int]) -> None:
        """Make conversation `number` these tokens; as far as it is so already, the cache stays. See `extend`."""
        self._check(number, len(tokens), tokens)
        conversation = self._conversations[number]
        pairs = enumerate(zip(conversation.tokens, tokens, strict=False))
        same = next((at for at, (old, new) in pairs if old != new), min(len(conversation.tokens), len(tokens)))
        conversation.tokens = [int(token) for token in tokens]
        keep = min(same, len(tokens) - 1)  # the newest is read again, for what follows it
        if keep < conversation.cached:
            whole = conversation.cached // PAGE * PAGE  # of older tokens only full pages can be kept
            conversation.cached = max(0, keep if keep >= whole else keep // PAGE * PAGE)

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
        made = self.replies(
            max_new_tokens, temperature, top_k, top_p, seeds, stop,
            min_p=min_p, repetition_penalty=repetition_penalty, among=among,
        )  # fmt: skip
        return [generation.tokens for generation in made]

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
        the model's end-of-sequence ids). AloeError when a conversation has no tokens at all, or on a setting without
        meaning.
        """
        pieces = self.stream(
            max_new_tokens, temperature, top_k, top_p, seeds, stop,
            min_p=min_p, repetition_penalty=repetition_penalty, among=among, logps=logps, every=PAGE,
        )  # fmt: skip
        numbers = range(len(self._conversations)) if among is None else among
        made = {number: Generation([], None, [] if logps else None) for number in numbers}
        for number, piece in pieces:
            made[number] = made[number].followed_by(piece)
        return list(made.values())

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

        The last piece of a conversation has the reason. Whoever stops listening leaves all conversations as they are
        after the pieces of the device's last call, some of which may not have been told.
        """
        if max_new_tokens < 1:
            raise AloeError(f"max_new_tokens must be positive, not {max_new_tokens}")
        settings = checked_settings(temperature, top_k, top_p, min_p, repetition_penalty)
        numbers = range(len(self._conversations)) if among is None else among
        if seeds is not None and len(seeds) != len(numbers):
            raise AloeError(f"session: {len(seeds)} seeds for {len(numbers)} conversations")
        for number in numbers:
            if not self._conversations[number].tokens:
                raise AloeError(f"row {number}: has no tokens; extend it first")
        seed_of = dict(zip(numbers, numbers if seeds is None else seeds, strict=True))
        ids = self._sampler.stop if stop is None else tuple(stop)
        return self._stream(max_new_tokens, settings, seed_of, ids, logps, min(every, PAGE))

    def _stream(
        self, most: int, settings: Settings, seeds: Mapping[int, int], stop: tuple[int, ...], logps: bool, every: int
    ) -> Generator[tuple[int, Generation]]:
        left = {number: min(most, self._length - len(self._conversations[number].tokens)) for number in seeds}
        full = [number for number in left if left[number] <= 0]
        for number in full:
            del left[number]
            yield number, Generation([], "length", [] if logps else None)
        waiting = sorted(left, key=lambda number: self._conversations[number].row is None)
        active: list[int] = []
        while waiting or active:
            while waiting and len(active) < self._rows:
                active.append(number := waiting.pop(0))
                self._seat(number, active)
            try:
                pieces = self._advance(active, left, every, settings, seeds, stop, logps, bool(waiting))
            except BaseException:
                self._forget()
                raise
            active = [number for number, piece in pieces if piece.reason is None]
            yield from pieces

    def _advance(
        self,
        active: Sequence[int],
        left: dict[int, int],
        every: int,
        settings: Settings,
        seeds: Mapping[int, int],
        stop: tuple[int, ...],
        logps: bool,
        others_wait: bool,
    ) -> list[tuple[int, Generation]]:
        """Read what is unread, draw once, and take note of it."""
        self._read(active)
        budgets = {number: min(left[number], every) for number in active}
        drawn = self._draw(budgets, settings, seeds, stop, logps, others_wait)
        pieces = []
        for number in active:
            conversation = self._conversations[number]
            row = conversation.row
            tokens = drawn.tokens[row, : drawn.made[row]].tolist()
            conversation.tokens += tokens
            conversation.cached += len(tokens)
            left[number] -= len(tokens)
            reason = self._reason(conversation, left[number], stop)
            told = drawn.logps[row, : len(tokens)].tolist() if logps else None
            pieces.append((number, Generation(tokens, reason, told)))
        return pieces

    def _forget(self) -> None:
        """Read everything anew next time: a call that was interrupted leaves it open what the cache holds."""
        self._made = None
        self._owners = [None] * self._rows
        for conversation in self._conversations:
            conversation.row, conversation.cached = None, 0

    def _reason(self, conversation: _Conversation, left: int, stop: tuple[int, ...]) -> Reason | None:
        if conversation.tokens[-1] in stop:
            return "stop"
        if left:
            return None
        return "length" if len(conversation.tokens) >= self._length else "max_new_tokens"

    def _check(self, number: int, length: int, new: Sequence[int]) -> None:
        vocab = self._sampler.model.spec.vocab
        if length > self._length:
            raise AloeError(
                f"row {number}: {length} tokens pass max_length {self._length}; shorten it or raise max_length"
            )
        for token in new:
            if not 0 <= token < vocab:
                raise AloeError(f"row {number}: token {token} is outside the model's vocabulary of {vocab}")

    # ------------------------------------------------------------ rows of the cache

    def _seat(self, number: int, active: Sequence[int]) -> None:
        """Give a conversation a row: an empty one, or that of the idle conversation that is the shortest."""
        conversation = self._conversations[number]
        if conversation.row is not None:
            return

        def cost(row: int) -> int:
            owner = self._owners[row]
            return -1 if owner is None else self._conversations[owner].cached

        row = min((r for r in range(self._rows) if self._owners[r] not in active), key=cost)
        previous = self._owners[row]
        if previous is not None:
            self._conversations[previous].row, self._conversations[previous].cached = None, 0
        self._owners[row], conversation.row, conversation.cached = number, row, 0

    def _read(self, active: Sequence[int]) -> None:
        """Bring all tokens but the newest of every active conversation into the cache, in pieces of some rows."""
        sampler, shards = self._sampler, self._sampler.shards
        rows, group = self._rows // shards, self._group // shards
        seated = {self._conversations[number].row: self._conversations[number] for number in active}
        while any(conversation.unread > 0 for conversation in seated.values()):
            numbers = np.full(self._group, rows, np.int32)  # past the last row: none
            tokens = np.zeros((self._group, PAGE), np.int32)
            lengths, counts = np.zeros(self._group, np.int32), np.zeros(self._group, np.int32)
            for shard in range(shards):
                here = [row for row in range(shard * rows, (shard + 1) * rows) if row in seated]
                unread = [row for row in here if seated[row].unread > 0]
                longest = sorted(unread, key=lambda row: -seated[row].unread)[:group]
                for at, row in enumerate(longest, start=shard * group):
                    conversation = seated[row]
                    piece = conversation.tokens[conversation.cached : -1][:PAGE]
                    numbers[at], lengths[at], counts[at] = row - shard * rows, conversation.cached, len(piece)
                    tokens[at, : len(piece)] = piece
                    conversation.cached += len(piece)
            with sampler.on_mesh():
                self._made = programs.prefill(
                    sampler.graph, sampler.state, sampler.layers, self._cache(),
                    *(sampler.put(x) for x in (numbers, tokens, lengths, counts)),
                    shards=shards, dtype=sampler.dtype,
                )  # fmt: skip

    def _draw(
        self,
        budgets: dict[int, int],
        settings: Settings,
        seeds: Mapping[int, int],
        stop: tuple[int, ...],
        logps: bool,
        others_wait: bool,
    ) -> programs.Drawn:
        """One call of the device: at most `budgets` tokens of each active conversation."""
        sampler = self._sampler
        last, lengths, most = (np.zeros(self._rows, np.int32) for _ in range(3))
        row_seeds = np.zeros(self._rows, np.uint32)
        for row, owner in enumerate(self._owners):
            if owner is not None and self._conversations[owner].tokens:
                conversation = self._conversations[owner]
                last[row], lengths[row] = conversation.tokens[-1], conversation.cached
                most[row], row_seeds[row] = budgets.get(owner, 0), seeds.get(owner, 0) % 2**32
        context = self._context(budgets, settings)
        put = sampler.put
        rows = programs.DrawnRows(put(last), put(lengths), put(most), put(row_seeds), context)
        ids = np.full(bucket(len(stop), 8), -1, np.int32)
        ids[: len(stop)] = stop
        # To wait for some rows to end spares reading those that take their places one by one.
        enough = max(1, self._rows // 8) if others_wait else self._rows + 1
        ends = programs.Ends(ids, np.int32(enough), np.bool_(logps))
        with sampler.on_mesh():
            drawn, self._made = programs.decode(
                sampler.graph, sampler.state, sampler.layers, self._cache(),
                rows, settings, ends,
                shards=sampler.shards, dtype=sampler.dtype,
            )  # fmt: skip
        return jax.device_get(drawn)

    def _context(self, active: Iterable[int], settings: Settings) -> jax.Array:
        """All tokens of the active conversations, by row; zeros, made once, where no penalty asks for them."""
        if settings.repetition_penalty == 1 and self._unread_context is not None:
            return self._unread_context
        tokens = np.zeros((self._rows, self._length), np.int32)
        if settings.repetition_penalty == 1:
            self._unread_context = self._sampler.put(tokens)
            return self._unread_context
        for number in active:
            conversation = self._conversations[number]
            tokens[conversation.row, : len(conversation.tokens)] = conversation.tokens
        return self._sampler.put(tokens)

    def _cache(self) -> Cache:
        if self._made is None:
            undivided = jax.default_backend() == "gpu"  # where a choice at every layer would stop the device
            self._made = self._sampler.empty_cache(self._rows, tuple(block_sizes(self._length, undivided)))
        return self._made
