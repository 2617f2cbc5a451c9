"""Grows a pool of texts call by call, so that a killed run ends with the same pool, and draws its curve."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from pydantic import BaseModel

from aloe_jax.coverage import percent
from aloe_jax.errors import AloeError
from aloe_jax.llm.ledger import Ledger
from aloe_jax.roles import RoleError, derive_seed
from datagen.journal import BATCH, POOL
from datagen.pool.embeddings import vectors_name, vectors_of
from datagen.pool.similarity import Kind, Novelty
from datagen.settings import DatagenSettings

_UNREADABLE = "unreadable answer"
_UNANSWERED = {"blocked reply", "empty reply", "truncated reply", "unreadable reply", _UNREADABLE}


class Batch(BaseModel):
    """What one call added to a pool, or what of the seeds it kept, as the journal has it."""

    accepted: list[str]
    refused: dict[str, int]

    @property
    def unanswered(self) -> bool:
        """Whether it is a note that there was no answer, as earlier versions wrote it; it counts for nothing."""
        return not self.accepted and len(self.refused) == 1 and self.refused.keys() <= _UNANSWERED


@dataclass
class TextPool:
    """Texts in the order in which they were accepted, and what became of the other candidates."""

    name: Kind
    members: list[str]
    refused: Counter[str] = field(default_factory=Counter)  # candidates by reason
    curve: list[int] = field(default_factory=list)  # size with the seeds, then after each answer
    unanswered: Counter[str] = field(default_factory=Counter)  # calls of this run without an answer, by reason

    def __post_init__(self) -> None:
        self.curve = self.curve or [len(self.members)]

    @property
    def calls(self) -> int:
        """Calls to the writer."""
        return len(self.curve) - 1

    @property
    def accepted(self) -> list[int]:
        """New members of each call."""
        return [after - before for before, after in itertools.pairwise(self.curve)]

    @property
    def barren(self) -> int:
        """Calls since the last one that brought a new member."""
        return sum(1 for _ in itertools.takewhile(lambda new: new == 0, reversed(self.accepted)))

    def take(self, batch: Batch) -> None:
        """Add the outcome of a call."""
        self.members.extend(batch.accepted)
        self.refused.update(batch.refused)
        if not batch.unanswered:
            self.curve.append(len(self.members))


class SaturatedError(AloeError):
    """The writer brings nothing new any more; `pool` is what there is."""

    def __init__(self, pool: TextPool, target: int, barren: int):
        """`barren` calls in a row brought nothing new."""
        self.pool, self.target = pool, target
        reasons = [f"{count} {reason}" for reason, count in (pool.refused + pool.unanswered).most_common()]
        advice = (
            f"lower personas.{pool.name} or personas.benchmark_{pool.name}, or raise personas.similarity, "
            "personas.patience or the writer's temperature"
        )
        if not pool.barren:  # but for calls that were not answered
            advice = "mend what the reasons say; the same command asks again"
        elif pool.unanswered:
            advice += "; the same command asks again where there was no answer"
        missing = target - len(pool.members)
        super().__init__(
            f"the pool of {pool.name} stopped growing at {len(pool.members)} of {target}: {barren} calls in a "
            f"row brought nothing new (refused: {', '.join(reasons) or 'no candidates'}); coverage "
            f"{percent(len(pool.members), target)}: {missing:,} of {target:,} {pool.name} are missing; {advice}; "
            f"the {len(pool.members)} members are kept"
        )


def grow(
    ledger: Ledger,
    name: Kind,
    seeds: Sequence[str],
    target: int,
    settings: DatagenSettings,
    *,
    write: Callable[[list[str], int, int], list[str]],
    progress: Callable[[int], None] = lambda size: None,
) -> TextPool:
    """Grow the pool `name` from `seeds` to at least `target` members.

    Each call shows the writer a random draw of members and asks for candidates; the outcome of call n depends
    on the seed, n and the pool so far, and is journaled, so that a run that was killed ends with the same
    pool. A call that is answered by a refusal or by nonsense is repeated with another draw and seed; a later run
    passes over those that failed in an earlier one, whose calls the journal has. Raises SaturatedError when `patience`
    calls in a row brought nothing new before the target, and passes on what stops a run, such as an unreachable model
    or a spent budget.
    """
    wanted = settings.personas
    key = _key(name, seeds, settings)
    novelty: Novelty | None = None  # created for the first call that the journal does not have
    if ledger.get(POOL, _seeds_id(name, key)) is None:
        novelty = _novelty(settings, ledger, name)
        accepted, refusals = novelty.filter(seeds)
        ledger.put(POOL, _seeds_id(name, key), {"accepted": accepted, "refused": dict(refusals)})
    pool, number = _start(ledger, name, key), 0
    progress(len(pool.members))
    failed = 0  # calls of this run without an answer since the last new member
    while len(pool.members) < target:
        if pool.barren + failed >= wanted.patience:
            raise SaturatedError(pool, target, pool.barren + failed)
        batch = _recorded(ledger, BATCH, _batch_id(name, key, number))
        if batch is None:
            if novelty is None:
                novelty = _novelty(settings, ledger, name)
                novelty.add(pool.members)
            for attempt in itertools.count():
                again = [attempt] if attempt else []
                seed = derive_seed(settings.seed, name, number, *again)
                examples = random.Random(seed).sample(pool.members, min(wanted.examples, len(pool.members)))
                try:
                    texts = write(examples, wanted.candidates, seed)
                except RoleError as error:
                    if not getattr(error, "fresh", True):
                        continue
                    failed += 1
                    reason = next((one for one in _UNANSWERED if f": {one}," in str(error)), _UNREADABLE)
                    pool.unanswered[reason] += 1
                    if pool.barren + failed >= wanted.patience:
                        raise SaturatedError(pool, target, pool.barren + failed) from None
                else:
                    break
            accepted, refusals = novelty.filter(texts)
            batch = Batch(accepted=accepted, refused=dict(refusals))
            ledger.put(BATCH, _batch_id(name, key, number), batch.model_dump())
        elif novelty is not None:
            novelty.add(batch.accepted)
        if batch.accepted:
            failed = 0
        number += 1
        pool.take(batch)
        progress(len(pool.members))
    return pool


def journaled_pool(ledger: Ledger, name: Kind, seeds: Sequence[str], settings: DatagenSettings) -> TextPool:
    """The pool `name` as far as earlier runs grew it with these settings: the bare seeds when none did."""
    key = _key(name, seeds, settings)
    if ledger.get(POOL, _seeds_id(name, key)) is None:
        return TextPool(name, list(seeds))
    pool = _start(ledger, name, key)
    for number in itertools.count():
        batch = _recorded(ledger, BATCH, _batch_id(name, key, number))
        if batch is None:
            break
        pool.take(batch)
    return pool


def _start(ledger: Ledger, name: Kind, key: str) -> TextPool:
    batch = _recorded(ledger, POOL, _seeds_id(name, key))
    assert batch is not None
    return TextPool(name, list(batch.accepted), Counter(batch.refused))


def _recorded(ledger: Ledger, kind: str, id: str) -> Batch | None:
    record = ledger.get(kind, id)
    return None if record is None else ledger.read(Batch, kind, id, record)


def _key(name: Kind, seeds: Sequence[str], settings: DatagenSettings) -> str:
    """What the outcome of every call depends on."""
    wanted = settings.personas
    shape: list[object] = [name, settings.seed, wanted.examples, wanted.candidates, wanted.similarity]
    shape += [vectors_name(settings), list(seeds), settings.roles.persona_writer.shaping()]
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:16]


def _seeds_id(name: Kind, key: str) -> str:
    return f"seeds-{name}-{key}"


def _batch_id(name: Kind, key: str, number: int) -> str:
    return f"{name}-{key}-{number:06d}"


def _novelty(settings: DatagenSettings, ledger: Ledger, kind: Kind) -> Novelty:
    wanted = settings.personas
    if wanted.vectors != "words" and "similarity" not in wanted.model_fields_set:
        raise AloeError(
            f"personas.similarity: the default of {wanted.similarity} belongs to personas.vectors=words, not to "
            f"{wanted.vectors}; run `python -m datagen calibrate --config FILE` and set personas.similarity"
        )
    return Novelty(wanted.similarity, vectors_of(settings, ledger), kind)


# ---------------------------------------------------------------- the growth curve

_BLOCKS = " ▁▂▃▄▅▆▇█"


def curve_text(pool: TextPool, target: int, width: int = 60, height: int = 8) -> str:
    """The size of the pool over the calls as a chart of block characters, and below it the new members a call.

    The chart reaches to the size of the pool, whatever the target, so that a flat end shows.
    """
    sizes = _resample(pool.curve, width)
    top = max(1, *pool.curve)
    levels = [round(size / top * 8 * height) for size in sizes]
    margin = len(f"{top:,}")
    lines = [f"{pool.name}: {len(pool.members):,} of {target:,} after {pool.calls:,} calls"]
    for row in reversed(range(height)):
        label = f"{top:,}" if row == height - 1 else "0" if row == 0 else ""
        lines.append(f"{label:>{margin}} │" + "".join(_BLOCKS[min(8, max(0, level - 8 * row))] for level in levels))
    lines.append(f"{'':>{margin}} └" + "─" * len(levels) + f" {pool.calls:,} calls")
    if pool.calls:
        lines.append(
            f"{'':>{margin}}  {sparkline(pool.accepted, width)} new members a call, {pool.accepted[-1]} in the last"
        )
    return "\n".join(lines)


def sparkline(values: Sequence[int], width: int = 60) -> str:
    """Values as one line of blocks; a dot stands for none."""
    means = _resample(values, width)
    top = max(means, default=0)
    return "".join("·" if value == 0 else _BLOCKS[math.ceil(value / top * 8)] for value in means)


def _resample(values: Sequence[int], width: int) -> list[float]:
    """At most `width` means of neighbouring values."""
    columns = min(width, len(values))
    edges = [round(column * len(values) / columns) for column in range(columns + 1)] if columns else []
    return [fmean(values[start:end]) for start, end in itertools.pairwise(edges)]
