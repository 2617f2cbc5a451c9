"""What a journal holds, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from aloe_jax import config
from aloe_jax.conversation import Conversation
from datagen.conversations import plan, recorded_conversations, short_reason
from datagen.journal import BATCH, CONVERSATION, POOL, SKIP
from datagen.personas import Personas, recorded_personas

if TYPE_CHECKING:
    from rich.table import Table

    from aloe_jax.llm.ledger import Ledger


@dataclass(frozen=True)
class TurnStats:
    """Means over the conversations at one turn, in words, and shares of the turns."""

    turn: int  # from 1
    user_words: float
    preferred_words: float
    rejected_words: float
    inferred_words: float  # of the inferred profile and personality together
    hint_preferred: float  # share in which the reply written with the hint won; NaN where not recorded
    preferred_continued: float  # share in which the dialogue followed the preferred reply


def turn_stats(conversations: Sequence[Conversation]) -> list[TurnStats]:
    """One row per turn, over the conversations that reach it."""
    rows = []
    for number in range(max(len(tree.turns) for tree in conversations)):
        turns = [tree.turns[number] for tree in conversations if number < len(tree.turns)]
        hinted = [turn.hinted == "preferred" for turn in turns if turn.hinted is not None]
        rows.append(
            TurnStats(
                turn=number + 1,
                user_words=fmean(_words(turn.user) for turn in turns),
                preferred_words=fmean(_words(turn.preferred) for turn in turns),
                rejected_words=fmean(_words(turn.rejected) for turn in turns),
                inferred_words=fmean(
                    _words(turn.inferred_profile) + _words(turn.inferred_personality) for turn in turns
                ),
                hint_preferred=fmean(hinted) if hinted else float("nan"),
                preferred_continued=fmean(turn.continued == "preferred" for turn in turns),
            )
        )
    return rows


def tables(ledger: Ledger, settings: config.Datagen) -> list[Table]:
    """Tables of the pools, the conversations turn by turn, the skips, and the calls by role.

    Raises AloeError when the journal holds no personas.
    """
    personas = recorded_personas(ledger, settings)
    shown = [_pool_table(ledger, personas)]
    if ledger.all(CONVERSATION):
        conversations = recorded_conversations(ledger, personas.training, settings)
        planned = plan(personas.training, settings.conversations.count, settings.seed)
        shown.append(_turn_table(conversations, len(planned)))
    skips = ledger.all(SKIP)
    if skips:
        finished = ledger.all(CONVERSATION).keys()
        open_skips = {record["conversation"]: record["reason"] for record in skips.values()}
        reasons = Counter(short_reason(why) for name, why in open_skips.items() if name not in finished)
        if reasons:
            shown.append(_table("Conversations skipped", ("reason", "count"), reasons.most_common()))
    usage = [(name, *counts) for name, counts in ledger.usage().items()]
    shown.append(_table("Calls", ("model/role", "calls", "input tokens", "output tokens"), usage))
    return shown


def _pool_table(ledger: Ledger, personas: Personas) -> Table:
    record = ledger.get(POOL, "personas") or {}
    refused: Counter[str] = Counter()
    batches = ledger.all(BATCH).values()
    for batch in batches:
        refused.update(batch["refused"])
    rows: list[tuple[Any, ...]] = [
        ("profiles", len(record["profiles"])),
        ("personalities", len(record["personalities"])),
        ("training personas", len(personas.training)),
        ("benchmark personas", len(personas.benchmark)),
        ("calls to the writer", len(batches)),
        *((f"refused: {reason}", count) for reason, count in refused.most_common()),
    ]
    return _table("Personas", ("", "count"), rows)


def _turn_table(conversations: Sequence[Conversation], planned: int) -> Table:
    rows = turn_stats(conversations) if conversations else []
    total = sum(len(tree.turns) for tree in conversations)
    title = f"{len(conversations):,} of {planned:,} conversations, {total:,} turns"
    heads = (
        "turn",
        "user words",
        "preferred",
        "rejected",
        "inferred",
        "hinted preferred",
        "preferred continued",
    )
    cells = [
        (
            row.turn,
            f"{row.user_words:.1f}",
            f"{row.preferred_words:.1f}",
            f"{row.rejected_words:.1f}",
            f"{row.inferred_words:.1f}",
            f"{row.hint_preferred:.0%}",
            f"{row.preferred_continued:.0%}",
        )
        for row in rows
    ]
    return _table(title, heads, cells)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    return table


def _words(text: str) -> int:
    return len(text.split())
