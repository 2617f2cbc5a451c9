"""Which replies people rate: drawn evenly over models, over the judges' ratings, and over turns and personas.

A page that shows replies as they fall would be full of the commonest rating and could not show whether judge and
people agree about the others. So every model gives as many replies as the next, as far as it has them, and so does
every rating within a model; among those that are left, the turn and then the persona that was drawn least comes first.

What is drawn evenly over the judge's ratings must not be averaged as it is: the replies to which an erring judge gave
a rare 5 are over-represented, and even a judge without any bias would seem to flatter the worst model. Every item
therefore has a weight, the replies of its model and rating in the runs over those drawn (Horvitz & Thompson 1952;
where not all of them were rated, over those rated, see `weights`).
In simulations of 120 replies of three models, rated by a judge without bias, the mean differences are then off by 0.03
at most (what is left comes from evening out the turns) and their intervals hold the truth 95-97% of the time; without
weights the judge seems to like the worst model better than the others by 0.4.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from aloe_jax.benchmark.rating.key import Cell, ReplyPlace, cell_of
from aloe_jax.conversation import Message, Persona
from aloe_jax.errors import AloeError

if TYPE_CHECKING:
    from aloe_jax.benchmark.results import Case, Results, StoredTurn


@dataclass(frozen=True)
class RatedReply:
    """A reply that may be drawn; `path` ends with the user's message. Of known quality it was rated nowhere."""

    item: str
    persona: Persona
    path: tuple[Message, ...]
    reply: str
    places: tuple[ReplyPlace, ...] = ()

    @property
    def cell(self) -> Cell:
        """What it is drawn as."""
        return cell_of(self.places)


@dataclass(frozen=True)
class Sample:
    """What was drawn: for each page the candidates that all pages share, then its own; and every item's weight."""

    pages: list[list[RatedReply]]
    weights: dict[str, float]


def candidates(runs: Mapping[str, Results], models: Sequence[str] = ()) -> list[RatedReply]:
    """All replies of some runs (by name) that a judge rated, each once; of `models` only where they are given.

    Raises AloeError for a model that no run has.
    """
    count = Counter(model for run in runs.values() for model in run.cases)
    if unknown := sorted(set(models) - set(count)):
        raise AloeError(f"--model {unknown[0]}: not in these runs; they have {', '.join(count)}")
    found: dict[str, RatedReply] = {}
    for run, results in runs.items():
        for model, cases in results.cases.items():
            if models and model not in models:
                continue
            name = model if count[model] == 1 else f"{run}: {model}"
            for case in cases:
                for turn, reply in enumerate(case.turns):
                    if reply.rating is not None:
                        new = _candidate(name, case, turn, reply, reply.rating)
                        known = found.setdefault(reply.item, new)
                        if known is not new:
                            places = (*known.places, *new.places)
                            found[reply.item] = RatedReply(known.item, known.persona, known.path, known.reply, places)
    return list(found.values())


def _candidate(model: str, case: Case, turn: int, reply: StoredTurn, rating: float) -> RatedReply:
    path: list[Message] = []
    for earlier in case.turns[:turn]:
        path += [{"role": "user", "content": earlier.user}, {"role": "assistant", "content": earlier.reply}]
    path.append({"role": "user", "content": reply.user})
    votes: dict[str, list[int]] = {}
    for vote in reply.votes:
        if vote.rating is not None:
            votes.setdefault(vote.judge, []).append(vote.rating)
    judges = {judge: fmean(given) for judge, given in votes.items()}
    place = ReplyPlace(model=model, turn=turn + 1, rating=rating, judges=judges)
    return RatedReply(reply.item, case.persona, tuple(path), reply.reply, (place,))


def draw(found: Sequence[RatedReply], pages: int, items: int, overlap: float, seed: int) -> Sample:
    """`items` for each of `pages`, the share `overlap` of them the same on all. The same arguments, the same sample.

    Raises AloeError when there are too few replies.
    """
    shared = items if pages == 1 else round(items * overlap)
    wanted = shared + pages * (items - shared)
    if wanted > len(found):
        raise AloeError(
            f"the runs have {len(found)} rated replies that differ, and {wanted} are asked for: lower --items or "
            "--raters, or raise --overlap"
        )
    pool = _Undrawn(found, seed)
    common = pool.take(shared)
    parts = [common + pool.take(items - shared) for _ in range(pages)]
    drawn = {one.item: one.cell for part in parts for one in part}
    there, taken = Counter(one.cell for one in found), Counter(drawn.values())
    return Sample(parts, {item: there[cell] / taken[cell] for item, cell in drawn.items()})


class _Undrawn:
    """Candidates that were not drawn yet."""

    def __init__(self, found: Sequence[RatedReply], seed: int) -> None:
        self._draw = random.Random(f"rating page {seed}")
        self._cells: dict[Cell, list[RatedReply]] = {}
        for one in self._draw.sample(found, len(found)):
            self._cells.setdefault(one.cell, []).append(one)
        self._drawn: Counter[Cell | str] = Counter()  # so far, by cell and by model

    def take(self, count: int) -> list[RatedReply]:
        """So many, evenly, and no more to be drawn."""
        taken: list[RatedReply] = []
        turns: Counter[tuple[str, int]] = Counter()
        personas: Counter[str] = Counter()
        for _ in range(count):
            full = [cell for cell, left in self._cells.items() if left]
            model = self._least({cell[0] for cell in full})
            cell = self._least({cell for cell in full if cell[0] == model})
            left = self._cells[cell]
            best = min(left, key=lambda one: (turns[model, one.places[0].turn], personas[one.persona.id]))
            left.remove(best)
            turns[model, best.places[0].turn] += 1
            personas[best.persona.id] += 1
            self._drawn.update([model, cell])
            taken.append(best)
        return taken

    def _least[K: (str, Cell)](self, names: Iterable[K]) -> K:
        """What was drawn least so far; where several were, one of them by chance."""
        ordered = sorted(names)  # a set has no order that can be relied on
        fewest = min(self._drawn[name] for name in ordered)
        return self._draw.choice([name for name in ordered if self._drawn[name] == fewest])


def name_runs(directories: Sequence[str | Path]) -> dict[str, Path]:
    """Run directories by name: the last part of the path, or all of it where two end alike.

    Raises AloeError where one is given twice.
    """
    paths = [Path(directory) for directory in directories]
    ends = Counter(path.resolve().name for path in paths)
    named: dict[str, Path] = {}
    for path in paths:
        name = path.resolve().name
        name = name if ends[name] == 1 else str(path)
        if name in named or path.resolve() in [known.resolve() for known in named.values()]:
            raise AloeError(f"{path}: given twice; name every run directory once")
        named[name] = path
    return named
