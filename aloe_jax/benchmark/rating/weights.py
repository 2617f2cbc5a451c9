"""For how many replies of the runs a rated one stands: one set of weights for `rate agreement` and for the report.

The replies that people rate are drawn evenly over models and over the judges' ratings. So a rated reply of a model m
that the judges gave the rating r, rounded, has the weight

    w(m, r) = replies of m with rating r in the runs / replies of m with rating r that people rated

(post-stratification; Holt & Smith 1979). Where everybody rated all that was drawn, that is the weight of the key.
Ratings of m and r of which people rated no reply are not represented: `unrated` counts their replies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from aloe_jax.benchmark.dialogue import digest
from aloe_jax.benchmark.intervals import Array
from aloe_jax.benchmark.rating.key import Cell, Item, Key, ReplyPlace, cell_of
from aloe_jax.benchmark.results import Case


def run_weights(key: Key, items: Sequence[str]) -> Array:
    """The weight of each of the rated `items` of a key, [U]."""
    counts = _in_runs(key)
    rated = Counter(cell_of(key.items[item].places) for item in items)
    return np.array([counts[cell] / rated[cell] for item in items for cell in [cell_of(key.items[item].places)]])


def unrated(key: Key, items: Sequence[str]) -> tuple[int, int]:
    """How many replies of the runs no rated one stands for, of how many."""
    counts = _in_runs(key)
    rated = {cell_of(key.items[item].places) for item in items}
    return round(sum(count for cell, count in counts.items() if cell not in rated)), round(sum(counts.values()))


def whole_key(cases: Mapping[str, Sequence[Case]]) -> Key:
    """A key to all rated replies of a run (model -> its dialogues), each standing for itself."""
    places: dict[str, list[ReplyPlace]] = {}
    owners: dict[str, str] = {}
    for model, some in cases.items():
        for case in some:
            owner = digest(case.persona.model_dump())
            for number, turn in enumerate(case.turns, 1):
                if turn.rating is None:
                    continue
                votes: dict[str, list[int]] = {}
                for vote in turn.votes:
                    if vote.rating is not None:
                        votes.setdefault(vote.judge, []).append(vote.rating)
                judges = {judge: sum(ratings) / len(ratings) for judge, ratings in votes.items()}
                place = ReplyPlace(model=model, turn=number, rating=turn.rating, judges=judges)
                places.setdefault(turn.item, []).append(place)
                owners[turn.item] = owner
    items = {item: Item(case=owners[item], weight=1.0, places=own) for item, own in places.items()}
    return Key(seed=0, simulated=[], pages=[], items=items)


def _in_runs(key: Key) -> dict[Cell, float]:
    """Replies in the runs, by model and rating: the weights of those drawn add up to them."""
    counts: dict[Cell, float] = {}
    for item in key.items.values():
        cell = cell_of(item.places)
        counts[cell] = counts.get(cell, 0.0) + item.weight
    return counts
