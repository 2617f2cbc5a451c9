"""What a journal holds, in numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.table import Table

from aloe_jax.benchmark.automatic import words_of
from aloe_jax.conversation import Conversation, Turn
from aloe_jax.llm.ledger import Ledger
from datagen.conversations import plan, recorded_conversations
from datagen.journal import BATCH, CONVERSATION, open_skips
from datagen.look.biases import length_bias, position_bias
from datagen.look.quality import LABELS, Quality, measure
from datagen.personas import Draw, Personas, recorded_draw, recorded_personas
from datagen.pool import survey
from datagen.pool.growth import Batch
from datagen.settings import DatagenSettings


@dataclass(frozen=True)
class TurnStats:
    """Means over the turns at one depth, in words, and shares of those turns; NaN where there is nothing to count."""

    turn: int  # from 1; in a forked tree the depth on the turn's path
    turns: int  # how many there are, more than one in a tree that forked before
    user_words: float
    preferred_words: float
    rejected_words: float  # of turns with two replies
    inferred_words: float  # of the inferred profile and personality together
    hint_preferred: float  # share in which the reply written with the hint won, of those that record it
    preferred_continued: float  # share in which the dialogue followed the preferred reply, of turns with two


def turn_stats(conversations: Sequence[Conversation]) -> list[TurnStats]:
    """One row per depth, over all turns there."""
    by_depth: list[list[Turn]] = []
    for tree in conversations:
        for number, turn in enumerate(tree.turns):
            depth = tree.depth(number)
            while len(by_depth) <= depth:
                by_depth.append([])
            by_depth[depth].append(turn)
    return [
        TurnStats(
            turn=depth + 1,
            turns=len(turns),
            user_words=_mean(_words(turn.user) for turn in turns),
            preferred_words=_mean(_words(turn.preferred) for turn in turns),
            rejected_words=_mean(_words(turn.rejected) for turn in turns if turn.rejected is not None),
            inferred_words=_mean(_words(turn.inferred_profile) + _words(turn.inferred_personality) for turn in turns),
            hint_preferred=_mean(turn.hinted == "preferred" for turn in turns if turn.hinted is not None),
            preferred_continued=_mean(turn.continued == "preferred" for turn in turns if turn.rejected is not None),
        )
        for depth, turns in enumerate(by_depth)
    ]


def turn_rows(conversations: Sequence[Conversation]) -> list[tuple[int | str, ...]]:
    """`turn_stats` as the cells of a table."""
    return [
        (
            *(row.turn, row.turns),
            *map(number, (row.user_words, row.preferred_words, row.rejected_words, row.inferred_words)),
            *map(share, (row.hint_preferred, row.preferred_continued)),
        )
        for row in turn_stats(conversations)
    ]


def tables(ledger: Ledger, settings: DatagenSettings) -> list[Table]:
    """Tables of the pools and their coverage, the conversations by turn and their quality, the skips, and the calls.

    Raises AloeError when the journal holds no personas.
    """
    personas = recorded_personas(ledger, settings)
    record = recorded_draw(ledger)
    assert record is not None  # or there would be no personas
    shown = [_pool_table(ledger, record, personas), *survey.tables(survey.survey(record.profiles))]
    if ledger.all(CONVERSATION):
        conversations = recorded_conversations(ledger, personas.training, settings)
        planned = plan(personas.training, settings.conversations.count, settings.seed)
        shown.append(_turn_table(conversations, len(planned)))
        if conversations:
            shown.append(quality_table(measure(conversations)))
            shown.append(bias_table(conversations))
    if reasons := open_skips(ledger):
        shown.append(_table("Conversations skipped", ("reason", "count"), reasons.most_common()))
    shown.append(_call_table(ledger))
    faults = [
        (*_parts(name), fault, count) for name, kinds in ledger.faults().items() for fault, count in kinds.items()
    ]
    if faults:
        shown.append(_table("Failed attempts", ("role", "model", "fault", "count"), faults))
    return shown


def quality_table(quality: Quality) -> Table:
    """The quality measures that the table of turns has not, turn by turn, and their means over the conversations."""
    labels = [label for label in LABELS if label.name not in ("user_words", "reply_words", "hint_won")]
    measured = [*((str(depth), measures) for depth, measures in enumerate(quality.turns, 1)), ("mean", quality.overall)]
    rows = [(turn, *(label.written(getattr(measures, label.name)) for label in labels)) for turn, measures in measured]
    return _table("Quality", ("turn", *(label.label for label in labels)), rows)


def bias_table(conversations: Sequence[Conversation]) -> Table:
    """What preferences go with besides the persona, with 95% intervals: length, and position before the verifier."""
    length, position = length_bias(conversations), position_bias(conversations)
    rows: list[tuple[object, ...]] = [
        ("the longer reply is preferred", length.longer.written(), length.unequal),
        *((f"at turn {turn}", share.written(), share.count) for turn, share in enumerate(length.by_turn, 1)),
        ("the reply read first is preferred", position.first.written(), position.recorded),
        ("pairs redrawn for a contradiction", "", position.redrawn),
    ]
    return _table("The verifier", ("", "share", "of pairs"), rows)


def _pool_table(ledger: Ledger, record: Draw, personas: Personas) -> Table:
    refused: Counter[str] = Counter()
    batches = [ledger.read(Batch, BATCH, id, batch) for id, batch in ledger.all(BATCH).items()]
    for batch in batches:
        refused.update(batch.refused)
    rows: list[tuple[object, ...]] = [
        ("profiles", len(record.profiles)),
        ("personalities", len(record.personalities)),
        ("training personas", len(personas.training)),
        ("benchmark personas", len(personas.benchmark)),
        ("calls to the writer", len(batches)),
        *((f"refused: {reason}", count) for reason, count in refused.most_common()),
    ]
    return _table("Personas", ("", "count"), rows)


def _turn_table(conversations: Sequence[Conversation], planned: int) -> Table:
    total = sum(len(tree.turns) for tree in conversations)
    title = f"{len(conversations):,} of {planned:,} conversations, {total:,} turns"
    heads = ("turn", "turns", "words: user", "pref.", "rej.", "infer.", "hint won", "pref. went on")
    return _table(title, heads, turn_rows(conversations))


def _call_table(ledger: Ledger) -> Table:
    rows: list[tuple[object, ...]] = []
    usage = ledger.usage()
    for name, used in usage.items():
        failed = ", ".join(f"{count:,} {outcome}" for outcome, count in used.outcomes.items() if outcome != "ok")
        cost = NONE if used.cost is None else f"${used.cost:,.4f}"
        pace = f"{used.seconds / used.calls:.2f}" if used.calls else NONE
        rows.append((*_parts(name), used.calls, used.input_tokens, used.output_tokens, cost, pace, failed or NONE))
    if len({row[5] for row in rows} - {NONE}) > 1:
        total = sum(used.cost or 0.0 for used in usage.values())
        numbers = ("calls", "input_tokens", "output_tokens")
        sums = (sum(getattr(used, name) for used in usage.values()) for name in numbers)
        rows.append(("all", "", *sums, f"${total:,.4f}", NONE, NONE))
    heads = ("role", "model", "calls", "tokens in", "out", "cost", "s/call", "not answered")
    return _table("Calls", heads, rows)


def _parts(name: str) -> tuple[str, str]:
    """`model/role` as role and model, whose name may have slashes of its own."""
    model, _, role = name.rpartition("/")
    return role, model


NONE = "\u2013"  # stands for a number that is not there


def number(value: float) -> str:
    """With one decimal; a dash for NaN."""
    return NONE if math.isnan(value) else f"{value:.1f}"


def share(value: float) -> str:
    """In per cent; a dash for NaN."""
    return NONE if math.isnan(value) else f"{value:.0%}"


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    table = Table(title=title, title_justify="left")
    for column, head in enumerate(heads):
        table.add_column(head, justify="right" if column else "left", no_wrap=column == 0)
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    return table


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return fmean(found) if found else math.nan


def _words(text: str) -> int:
    return len(words_of(text))
