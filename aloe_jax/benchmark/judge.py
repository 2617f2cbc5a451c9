"""Ratings: a judge who knows the persona rates every reply of a dialogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from aloe_jax.benchmark.dialogue import Dialogue, digest, persistent, threaded
from aloe_jax.benchmark.metrics import Array
from aloe_jax.llm.ledger import Ledger
from aloe_jax.roles import Cast, RoleError

_BATCH = 64  # ratings journaled at a time


@dataclass(frozen=True)
class Verdict:
    """A rating 1–5 with the judge's reason; None where no answer of the judge could be parsed."""

    rating: int | None
    reason: str


def rate(
    dialogues: Sequence[Dialogue],
    cast: Cast,
    ledger: Ledger,
    *,
    seed: int,
    judge: dict[str, Any],
    progress: Callable[[int], None] = lambda ratings: None,
) -> list[list[Verdict]]:
    """One verdict for each reply of each dialogue, every one asked for by itself.

    An answer that cannot be parsed in three attempts counts as a missing rating and touches no other. `judge`
    describes the judge (`dialogue.describe`); with the persona and the messages it is the journal's key, so
    that a rating is asked for once. Raises AloeError when the judge cannot be reached.
    """
    tasks = [(dialogue, turn) for dialogue in dialogues for turn in range(len(dialogue.exchanges))]
    keys = [_key(dialogue, turn, judge, seed) for dialogue, turn in tasks]
    found = {key: Verdict(**record) for key in keys if (record := ledger.get("rating", key))}
    waiting = {key: task for key, task in zip(keys, tasks, strict=True) if key not in found}
    progress(len(keys) - len(waiting))
    order = list(waiting)
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        verdicts = threaded(lambda key: _judge(*waiting[key], cast, seed), batch)
        found.update(zip(batch, verdicts, strict=True))
        ledger.put_many("rating", [(key, asdict(found[key])) for key in batch])
        progress(len(keys) - len(order) + start + len(batch))
    flat = iter(keys)
    return [[found[next(flat)] for _ in dialogue.exchanges] for dialogue in dialogues]


def ratings_table(verdicts: Sequence[Sequence[Verdict]], turns: int) -> Array:
    """Ratings [N cases, K turns] with NaN for every missing one."""
    table = np.full((len(verdicts), turns), np.nan)
    for case, row in enumerate(verdicts):
        for turn, verdict in enumerate(row):
            if verdict.rating is not None:
                table[case, turn] = verdict.rating
    return table


def _judge(dialogue: Dialogue, turn: int, cast: Cast, seed: int) -> Verdict:
    persona, path, reply = dialogue.persona, dialogue.path(turn), dialogue.exchanges[turn].reply.text
    try:
        rating = persistent(lambda s: cast.judge(persona, path, reply, s), seed, "judge", persona.id, turn)
    except RoleError as error:
        return Verdict(None, f"no rating: {error}")
    return Verdict(rating.rating, rating.reason)


def _key(dialogue: Dialogue, turn: int, judge: dict[str, Any], seed: int) -> str:
    content = [dialogue.persona.model_dump(), dialogue.path(turn), dialogue.exchanges[turn].reply.text]
    return digest(judge, seed, turn, content)
