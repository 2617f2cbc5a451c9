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
from typing import TYPE_CHECKING, Any

from aloe_jax import config
from aloe_jax.errors import AloeError
from datagen.journal import BATCH, POOL
from datagen.pool.embeddings import vectors_name, vectors_of
from datagen.pool.similarity import Kind, Novelty

if TYPE_CHECKING:
    from aloe_jax.llm.ledger import Ledger
    from aloe_jax.roles import RoleError


@dataclass
class Pool:
    """Texts in the order in which they were accepted, and what became of the other candidates."""

    name: Kind
    members: list[str]
    refused: Counter[str] = field(default_factory=Counter)  # candidates by reason, and calls without an answer
    curve: list[int] = field(default_factory=list)  # size with the seeds, then after each call

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

    @property
    def sparkline(self) -> str:
        """New members of each call as one line of blocks; a dot stands for none."""
        return _sparkline(self.accepted)

    def take(self, batch: dict[str, Any]) -> None:
        """Add the outcome of a call."""
        self.members.extend(batch["accepted"])
        self.refused.update(batch["refused"])
        self.curve.append(len(self.members))


class SaturatedError(AloeError):
    """The writer brings nothing new any more; `pool` is what there is."""

    def __init__(self, pool: Pool, target: int):
        self.pool, self.target = pool, target
        reasons = ", ".join(f"{count} {reason}" for reason, count in pool.refused.most_common()) or "no candidates"
        super().__init__(
            f"the pool of {pool.name} stopped growing at {len(pool.members)} of {target}: {pool.barren} calls in a "
            f"row brought nothing new (refused: {reasons}); lower personas.{pool.name} or "
            f"personas.benchmark_{pool.name}, or raise personas.similarity, personas.patience or the writer's "
            f"temperature; the {len(pool.members)} members are kept"
        )


def grow(
    ledger: Ledger,
    name: Kind,
    seeds: Sequence[str],
    target: int,
    settings: config.Datagen,
    *,
    write: Callable[[list[str], int, int], list[str]],
    progress: Callable[[int], None] = lambda size: None,
) -> Pool:
    """Grow the pool `name` from `seeds` to at least `target` members.

    Each call shows the writer a random draw of members and asks for candidates; the outcome of call n depends
    on the seed, n and the pool so far, and is journaled, so that a run that was killed ends with the same
    pool. A call that is answered by a refusal or by nonsense counts as one without candidates. Raises
    SaturatedError when `patience` calls in a row brought nothing new before the target, and passes on what
    stops a run, such as an unreachable model or a spent budget.
    """
    from aloe_jax.roles import RoleError, derive_seed

    wanted = settings.personas
    key = _key(name, seeds, settings)
    novelty: Novelty | None = None  # made for the first call that the journal does not hold
    if ledger.get(POOL, _seeds_id(name, key)) is None:
        novelty = _novelty(settings, ledger, name)
        accepted, refusals = novelty.filter(seeds)
        ledger.put(POOL, _seeds_id(name, key), {"accepted": accepted, "refused": dict(refusals)})
    pool = _start(ledger, name, key)
    progress(len(pool.members))
    while len(pool.members) < target:
        if pool.barren >= wanted.patience:
            raise SaturatedError(pool, target)
        batch = ledger.get(BATCH, _batch_id(name, key, pool.calls))
        if batch is None:
            if novelty is None:
                novelty = _novelty(settings, ledger, name)
                novelty.add(pool.members)
            seed = derive_seed(settings.seed, name, pool.calls)
            examples = random.Random(seed).sample(pool.members, min(wanted.examples, len(pool.members)))
            try:
                accepted, refusals = novelty.filter(write(examples, wanted.candidates, seed))
            except RoleError as error:
                accepted, refusals = [], Counter({_unanswered(error): 1})
            batch = {"accepted": accepted, "refused": dict(refusals)}
            ledger.put(BATCH, _batch_id(name, key, pool.calls), batch)
        elif novelty is not None:
            novelty.add(batch["accepted"])
        pool.take(batch)
        progress(len(pool.members))
    return pool


def journaled_pool(ledger: Ledger, name: Kind, seeds: Sequence[str], settings: config.Datagen) -> Pool:
    """The pool `name` as far as earlier runs grew it with these settings: the bare seeds when none did."""
    key = _key(name, seeds, settings)
    if ledger.get(POOL, _seeds_id(name, key)) is None:
        return Pool(name, list(seeds))
    pool = _start(ledger, name, key)
    while (batch := ledger.get(BATCH, _batch_id(name, key, pool.calls))) is not None:
        pool.take(batch)
    return pool


def _start(ledger: Ledger, name: Kind, key: str) -> Pool:
    batch = ledger.get(POOL, _seeds_id(name, key))
    assert batch is not None
    return Pool(name, batch["accepted"], Counter(batch["refused"]))


def _key(name: Kind, seeds: Sequence[str], settings: config.Datagen) -> str:
    """What the outcome of every call depends on."""
    wanted = settings.personas
    shape: list[Any] = [name, settings.seed, wanted.examples, wanted.candidates, wanted.similarity]
    shape += [vectors_name(settings), list(seeds), settings.roles.persona_writer.shaping()]
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:16]


def _seeds_id(name: Kind, key: str) -> str:
    return f"seeds-{name}-{key}"


def _batch_id(name: Kind, key: str, number: int) -> str:
    return f"{name}-{key}-{number:06d}"


def _novelty(settings: config.Datagen, ledger: Ledger, kind: Kind) -> Novelty:
    wanted = settings.personas
    if wanted.vectors != "words" and "similarity" not in wanted.model_fields_set:
        raise AloeError(
            f"personas.similarity: the default of {wanted.similarity} belongs to personas.vectors=words, not to "
            f"{wanted.vectors}; run `python -m datagen calibrate --config FILE` and set personas.similarity"
        )
    return Novelty(wanted.similarity, vectors_of(settings, ledger), kind)


def _unanswered(error: RoleError) -> str:
    known = ("blocked reply", "empty reply", "truncated reply")
    return next((reason for reason in known if f": {reason}," in str(error)), "unreadable answer")


# ---------------------------------------------------------------- the growth curve

_BLOCKS = " ▁▂▃▄▅▆▇█"


def curve_text(pool: Pool, target: int, width: int = 60, height: int = 8) -> str:
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
            f"{'':>{margin}}  {_sparkline(pool.accepted, width)} new members a call, {pool.accepted[-1]} in the last"
        )
    return "\n".join(lines)


def _sparkline(values: Sequence[int], width: int = 60) -> str:
    means = _resample(values, width)
    top = max(means, default=0)
    return "".join("·" if value == 0 else _BLOCKS[math.ceil(value / top * 8)] for value in means)


def _resample(values: Sequence[int], width: int) -> list[float]:
    """At most `width` means of neighbouring values."""
    columns = min(width, len(values))
    edges = [round(column * len(values) / columns) for column in range(columns + 1)] if columns else []
    return [fmean(values[start:end]) for start, end in itertools.pairwise(edges)]
