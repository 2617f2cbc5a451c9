"""The cache of a session that draws siblings: rows of conversations, and pages of what siblings have of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from aloe_jax.sampling import siblings as programs
from aloe_jax.sampling.conversations import CachedConversation
from aloe_jax.sampling.draw import Settings
from aloe_jax.sampling.engine import Engine
from aloe_jax.sampling.programs import Drawn, DrawnRows
from aloe_jax.sampling.row_cache import Asked, RowCache, ends_of
from aloe_jax.sampling.shapes import page_slots, sibling_rows


class SiblingCache(RowCache):
    """As RowCache, with `siblings` replies drawn from every row; the engine's `rows` are replies drawn together."""

    def __init__(self, engine: Engine, conversations: int, length: int, siblings: int) -> None:
        size = sibling_rows(conversations, siblings, engine.rows, engine.shards)
        super().__init__(engine, conversations, length, size)
        self.siblings = siblings
        self._pages: programs.Own | None = None
        self._slots = 0
        # By row: whose its pages are, and how many tokens are before them.
        self._kept_from: dict[int, tuple[CachedConversation, int]] = {}

    def draw_siblings(
        self,
        asked: Mapping[CachedConversation, Sequence[Asked]],
        settings: Settings,
        stop: Sequence[int],
        logps: bool,
        most: int,
    ) -> Drawn:
        """One call of the device: what every sibling is asked for, at most `most` tokens; by row and sibling [B]."""
        engine, size, count = self._engine, self.size, self.siblings
        # Of rows that are not asked nothing is read, and their length is 0.
        last, lengths, budgets = (np.zeros((size, count), np.int32) for _ in range(3))
        seeds = np.zeros((size, count), np.uint32)
        for conversation, of_siblings in asked.items():
            row = conversation.row
            assert row is not None
            last[row], lengths[row] = conversation.tokens[-1], conversation.cached
            budgets[row] = [one.budget for one in of_siblings]
            seeds[row] = [one.seed % 2**32 for one in of_siblings]
        context = np.zeros((size, count, self._length if settings.repetition_penalty != 1 else 1), np.int32)
        if settings.repetition_penalty != 1:
            for conversation in asked:
                context[conversation.row, :, : len(conversation.tokens)] = conversation.tokens
        rows = DrawnRows(
            *(engine.put(x.reshape(size * count, *x.shape[2:])) for x in (last, lengths, budgets, seeds, context))
        )
        ends = ends_of(stop, size * count + 1, logps)
        pages = self._empty_pages(most)
        self._pages, self._kept_from = None, {}
        with engine.on_mesh():
            drawn, self._pages = programs.decode_siblings(
                engine.graph, engine.state, engine.layers, self._arrays(), pages, rows, settings, ends,
                dtype=engine.dtype,
            )  # fmt: skip
        found = jax.device_get(drawn)
        self._kept_from = {one.row: (one, one.cached) for one in asked if one.row is not None}
        return found

    def keep(self, chosen: Mapping[CachedConversation, tuple[int, int]]) -> None:
        """Of every conversation (sibling, tokens that it has): they are its own now, and cached if its pages are there.

        A conversation that has lost its row since, or whose pages were drawn over, reads them again.
        """
        numbers = np.zeros((3, self.size), np.int32)
        ready = []
        for conversation, (sibling, count) in chosen.items():
            row = conversation.row
            if row is not None and self._kept_from.pop(row, None) == (conversation, conversation.cached):
                numbers[:, row] = sibling, conversation.cached, count
                ready.append((conversation, count))
        for row, owner in enumerate(self._rows.owners):
            if owner is not None and not numbers[2, row]:
                numbers[1, row] = owner.cached
        if not ready:
            return
        assert self._pages is not None
        engine = self._engine
        with engine.on_mesh():
            self._cache = programs.keep(self._arrays(), self._pages, *map(engine.put, numbers), shards=engine.shards)
        for conversation, count in ready:
            conversation.cached += count

    def forget(self) -> None:
        """See RowCache."""
        super().forget()
        self._pages, self._kept_from = None, {}

    def renew(self) -> None:
        """See RowCache."""
        if self._weights != self._engine.version:
            self._kept_from = {}
        super().renew()

    def _empty_pages(self, most: int) -> programs.Own:
        slots = page_slots(most)
        if self._pages is None or slots != self._slots:
            engine, self._slots = self._engine, slots
            with engine.on_mesh():
                made = programs.new_pages(engine.model.spec, self.size * self.siblings, slots, engine.dtype)
            device = engine.device if engine.mesh is None else None
            self._pages = jax.tree.map(lambda x: jax.device_put(x, x.sharding if device is None else device), made)
        assert self._pages is not None
        return self._pages
