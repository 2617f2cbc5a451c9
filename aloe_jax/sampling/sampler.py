"""Replies from a decoder, many conversations at a time, with the cache kept from turn to turn."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from aloe_jax.errors import AloeError
from aloe_jax.models.decoder import Cache, Decoder
from aloe_jax.sampling.cache import bucket, grown, new_cache, slots
from aloe_jax.sampling.draw import Settings, draw

LEAST_SLOTS = 64  # smallest cache
LEAST_TOKENS = 16  # smallest prefill piece and smallest reply buffer
MOST_TOKENS = 512  # longest prefill piece of a row
PIECE_TOKENS = 16_384  # tokens of all rows that one prefill piece computes together


class Sampler:
    """Draws replies from `model`. Compiled functions are shared by all samplers of models of one shape.

    `max_length` bounds a row's tokens, prompt and replies together; the model's own maximum bounds it too.
    `tokenizer` is only asked for its end-of-sequence id, where the model's spec has none.
    """

    def __init__(self, model: Decoder, tokenizer: Any = None, max_length: int = 4096) -> None:
        self.model = model
        self.max_length = min(max_length, model.spec.max_length)
        self.stop = model.spec.eos_ids
        if not self.stop and tokenizer is not None and tokenizer.eos_token_id is not None:
            self.stop = (tokenizer.eos_token_id,)

    def session(self, batch: int) -> Session:
        """`batch` empty rows."""
        return Session(self, batch)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seeds: Sequence[int] | None = None,
        stop: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """The continuation of every prompt, new tokens only. See `Session.reply`."""
        session = self.session(len(prompts))
        session.extend(prompts)
        return session.reply(max_new_tokens, temperature, top_k, top_p, seeds, stop)


class Session:
    """Conversations in step: `extend` every row, `reply` in every row, and again.

    A turn computes only its new tokens. The last token of a reply enters the cache with the next extension.
    """

    def __init__(self, sampler: Sampler, batch: int) -> None:
        self._sampler = sampler
        self._batch = batch
        self._graph, self._state = nnx.split(sampler.model)
        self._cache = new_cache(sampler.model.spec, batch, LEAST_SLOTS, sampler.model.compute.dtype)
        self._cached = np.zeros(batch, np.int32)  # tokens of each row in the cache
        self._waiting: list[list[int]] = [[] for _ in range(batch)]  # tokens of each row not yet in it

    @property
    def lengths(self) -> list[int]:
        """Tokens of every row so far, prompts and replies together."""
        return [int(cached) + len(row) for cached, row in zip(self._cached, self._waiting, strict=True)]

    def extend(self, tokens: Sequence[Sequence[int]]) -> None:
        """Append tokens to every row; a row may get none.

        Raises AloeError naming the row when it would pass max_length or an id is outside the vocabulary; nothing
        is appended then.
        """
        if len(tokens) != self._batch:
            raise AloeError(f"session: {len(tokens)} rows of tokens for {self._batch} conversations")
        vocab, limit = self._sampler.model.spec.vocab, self._sampler.max_length
        for row, (new, length) in enumerate(zip(tokens, self.lengths, strict=True)):
            if length + len(new) > limit:
                raise AloeError(
                    f"row {row}: {length + len(new)} tokens pass max_length {limit}; shorten it or raise max_length"
                )
            for token in new:
                if not 0 <= token < vocab:
                    raise AloeError(f"row {row}: token {token} is outside the model's vocabulary of {vocab}")
        for waiting, new in zip(self._waiting, tokens, strict=True):
            waiting.extend(int(token) for token in new)

    def reply(
        self,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seeds: Sequence[int] | None = None,
        stop: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """Up to `max_new_tokens` new tokens a row, ending early with a stop token (included) or at max_length.

        temperature 0 takes the likeliest token, top_k 0 and top_p 1 do not cut. `seeds`: an int a row (default:
        the row's number); what a row draws depends on its seed and its tokens, not on the batch. `stop`: ids that
        end a reply (default: the model's end-of-sequence ids). AloeError when a row has no tokens at all.
        """
        if max_new_tokens < 1:
            raise AloeError(f"max_new_tokens must be positive, not {max_new_tokens}")
        if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
            raise AloeError(
                f"sampling: temperature {temperature} and top_k {top_k} must not be negative, top_p {top_p} in (0, 1]"
            )
        seeds = range(self._batch) if seeds is None else seeds
        if len(seeds) != self._batch:
            raise AloeError(f"session: {len(seeds)} seeds for {self._batch} conversations")
        for row, length in enumerate(self.lengths):
            if length == 0:
                raise AloeError(f"row {row}: has no tokens; extend it first")
        if not self._batch:
            return []
        limit = self._sampler.max_length
        self._make_room(min(max(self.lengths) + max_new_tokens, limit))
        hidden = self._prefill()
        stop = self._sampler.stop if stop is None else stop
        stops = np.full(bucket(len(stop), 4), -1, np.int32)  # -1: no token
        stops[: len(stop)] = list(stop)
        tokens, made, self._cache, cached = _decode(
            self._graph,
            self._state,
            self._cache,
            hidden,
            jnp.asarray(self._cached),
            Settings(jnp.float32(temperature), jnp.int32(top_k), jnp.float32(top_p)),
            jnp.asarray([seed % 2**32 for seed in seeds], jnp.uint32),
            jnp.asarray(stops),
            jnp.int32(max_new_tokens),
            jnp.int32(limit),
            room=bucket(max_new_tokens, LEAST_TOKENS),
        )
        tokens, made, cached = jax.device_get((tokens, made, cached))
        self._cached = np.array(cached)
        replies = [row[:count].tolist() for row, count in zip(tokens, made, strict=True)]
        self._waiting = [reply[-1:] for reply in replies]
        return replies

    def _make_room(self, needed: int) -> None:
        size = min(bucket(needed, LEAST_SLOTS), max(self._sampler.max_length, LEAST_SLOTS))
        if size > slots(self._cache):
            self._cache = grown(self._cache, size)

    def _prefill(self) -> jax.Array:
        """Bring all waiting tokens into the cache; the state [B,D] of every row's last token.

        Long extensions go in pieces, so that the score matrices stay small and the sizes few.
        """
        spec, compute = self._sampler.model.spec, self._sampler.model.compute
        hidden = jnp.zeros((self._batch, spec.width), compute.dtype)
        most = max(LEAST_TOKENS, min(MOST_TOKENS, bucket(PIECE_TOKENS // self._batch + 1, 1) // 2))
        while longest := max(len(row) for row in self._waiting):
            size = min(bucket(longest, LEAST_TOKENS), most)
            counts = np.array([min(len(row), size) for row in self._waiting], np.int32)
            tokens = np.zeros((self._batch, size), np.int32)
            for row, (waiting, count) in enumerate(zip(self._waiting, counts, strict=True)):
                tokens[row, :count] = waiting[:count]
            hidden, self._cache = _prefill(
                self._graph, self._state, self._cache, tokens, self._cached.copy(), counts, hidden
            )
            self._cached += counts
            self._waiting = [row[count:] for row, count in zip(self._waiting, counts, strict=True)]
        return hidden


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _prefill(
    graph: nnx.GraphDef[Decoder],
    state: nnx.State,
    cache: Cache,
    tokens: jax.Array,
    lengths: jax.Array,
    counts: jax.Array,
    hidden: jax.Array,
) -> tuple[jax.Array, Cache]:
    """Add counts[b] of tokens [B,T] to every row; rows that bring some get their last state [B,D] in `hidden`."""
    states, cache = nnx.merge(graph, state).cached(tokens, cache, lengths)
    last = states[jnp.arange(tokens.shape[0]), jnp.maximum(counts - 1, 0)]
    return jnp.where((counts > 0)[:, None], last, hidden), cache


@functools.partial(jax.jit, static_argnums=0, static_argnames="room", donate_argnums=2)
def _decode(
    graph: nnx.GraphDef[Decoder],
    state: nnx.State,
    cache: Cache,
    hidden: jax.Array,
    lengths: jax.Array,
    settings: Settings,
    seeds: jax.Array,
    stop: jax.Array,
    limit: jax.Array,
    max_length: jax.Array,
    *,
    room: int,
) -> tuple[jax.Array, jax.Array, Cache, jax.Array]:
    """The whole reply in one loop on the device: no word to the host between tokens.

    -> (tokens [B,room], how many of them each row made [B], cache, tokens of each row in the cache [B]).
    """
    model = nnx.merge(graph, state)
    batch = hidden.shape[0]

    def choose(hidden: jax.Array, lengths: jax.Array, done: jax.Array) -> tuple[jax.Array, jax.Array]:
        token = draw(model.logits(hidden), settings, seeds, lengths)
        ends = (token[:, None] == stop[None]).any(axis=1) | (lengths + 1 >= max_length)
        return token, done | ends

    def unfinished(carry: tuple[Any, ...]) -> jax.Array:
        step, *_, done = carry
        return (step < limit) & ~done.all()

    def advance(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        step, token, tokens, made, cache, lengths, done = carry
        going = (~done).astype(jnp.int32)
        hidden, cache = model.cached(token[:, None], cache, lengths)
        lengths = lengths + going
        token, now_done = choose(hidden[:, 0], lengths, done)
        tokens = lax.dynamic_update_slice_in_dim(tokens, token[:, None], step, axis=1)
        return step + 1, token, tokens, made + going, cache, lengths, now_done

    full = lengths >= max_length
    token, done = choose(hidden, lengths, full)
    tokens = jnp.zeros((batch, room), jnp.int32).at[:, 0].set(token)
    carry = (jnp.int32(1), token, tokens, (~full).astype(jnp.int32), cache, lengths, done)
    _, _, tokens, made, cache, lengths, _ = lax.while_loop(unfinished, advance, carry)
    return tokens, made, cache, lengths
