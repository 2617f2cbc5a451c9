"""For how many replies of the runs a rated one stands, in `rate agreement` and in the report.

The replies that people rate are drawn evenly over models and over the judges' ratings. Rated replies are weighted back
within strata, so that in each stratum the weights of the rated replies add up to its replies (post-stratification;
Holt & Smith 1979):

    w(i) = weight of i x weights of the stratum's replies / weights of those of them that people rated

With the key of pages the strata are the cells that were drawn from, model and rating, and the weights are the key's:
where everybody rated all that was drawn, that is the weight of the key. Cells of which people rated no reply are not
represented: `unrated` counts their replies.

Without it, in the report, every reply of the run is in the key with weight 1 (`whole_key`), and nothing says of which
models the pages were. A stratum is then the models that gave a reply, together, and its rating. A stratum of several
models without a rated reply is counted to one of those models alone. A model's replies of a rating were drawn if one
that it alone gave was rated, or if it gave none alone; where not, the replies that it has in common with another model
say nothing of it (`drawn_cells`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aloe_jax.benchmark.dialogue import digest
from aloe_jax.benchmark.intervals import Array
from aloe_jax.benchmark.rating.key import Cell, Item, Key, ReplyPlace, cell_of
from aloe_jax.benchmark.results import Case

_Stratum = tuple[tuple[str, ...], int]  # models and rating


def run_weights(key: Key, items: Sequence[str]) -> Array:
    """The weight of each of the rated `items` of a key, [U]."""
    counts = _in_runs(key, items)
    strata = [_stratum(key, item) for item in items]
    rated = dict.fromkeys(strata, 0.0)
    for item, own in zip(items, strata, strict=True):
        rated[own] += key.items[item].weight
    pairs = zip(items, strata, strict=True)
    return np.array([key.items[item].weight * counts[own] / rated[own] for item, own in pairs])


def unrated(key: Key, items: Sequence[str]) -> tuple[int, int]:
    """How many replies of the runs no rated one stands for, of how many."""
    counts = _in_runs(key, items)
    rated = {_stratum(key, item) for item in items}
    return round(sum(count for own, count in counts.items() if own not in rated)), round(sum(counts.values()))


def drawn_cells(key: Key, items: Sequence[str]) -> set[Cell]:
    """The models and ratings of which the rated `items` are a sample; a model has no numbers from others."""
    if key.pages:
        return {cell_of([place]) for item in items for place in key.items[item].places}
    rated, alone, common, present = set(items), set[Cell](), set[Cell](), set[Cell]()
    for item, one in key.items.items():
        cells = {cell_of([place]) for place in one.places}
        is_alone = len({model for model, _ in cells}) == 1
        if is_alone:
            present |= cells
        if item in rated:
            (alone if is_alone else common).update(cells)
    return alone | (common - present)


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


def _stratum(key: Key, item: str) -> _Stratum:
    """What a reply is weighted within."""
    places = key.items[item].places
    model, rating = cell_of(places)
    if key.pages:
        return (model,), rating
    return tuple(dict.fromkeys(place.model for place in places)), rating


def _in_runs(key: Key, items: Sequence[str]) -> dict[_Stratum, float]:
    """Replies in the runs by stratum; those of several models of which no item is rated count as one model's."""
    counts: dict[_Stratum, float] = {}
    for item in key.items:
        own = _stratum(key, item)
        counts[own] = counts.get(own, 0.0) + key.items[item].weight
    rated = {_stratum(key, item) for item in items}
    for models, rating in [own for own in counts if len(own[0]) > 1 and own not in rated]:
        taken = next((((model,), rating) for model in models if ((model,), rating) in rated), None)
        if taken is not None:
            counts[taken] += counts.pop((models, rating))
    return counts
