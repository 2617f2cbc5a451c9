"""The key to rating pages: what is behind every item. It is kept from the raters, whose pages say nothing of it.

    {
      "format": "aloe-rating-key", "version": 1, "seed": 7,
      "simulated": ["the users"],                        what a script played in the runs
      "pages": [{"file": "rate-1.html", "page": "3f…", "items": ["9b2c…", …]}, …],
      "items": {"9b2c…": {"case": "77…", "weight": 2.5, "places": [
         {"model": "dpo", "turn": 3, "rating": 3.5, "judges": {"strict": 3, "kind": 4}}]}},
      "checks": {"07aa…": {"kind": "informed", "quality": 3}}
    }

`case` names the persona. `weight` is how many replies of the runs an item stands for (see `sample`). An item that
several models said in the same conversation has several places. `checks` are items of known quality.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from aloe_jax.benchmark.results import StoredRecord
from aloe_jax.conversation import read_record

FORMAT: Literal["aloe-rating-key"] = "aloe-rating-key"
VERSION: Literal[1] = 1

Cell = tuple[str, int]  # model and the judges' rating, rounded: what replies are drawn from evenly


class ReplyPlace(StoredRecord):
    """Where a reply was given, and what the judges said of it there."""

    model: str  # with its run in front where two runs have one of that name
    turn: int  # from 1
    rating: float  # mean of all votes
    judges: dict[str, float]  # mean of each judge's votes, where it gave one


def cell_of(places: Sequence[ReplyPlace]) -> Cell:
    """What a reply is drawn as: one that several models gave counts for the first of them."""
    return places[0].model, math.floor(places[0].rating + 0.5)


class Item(StoredRecord):
    """A reply in its context."""

    case: str
    weight: float = Field(gt=0)
    places: list[ReplyPlace] = Field(min_length=1)


class Check(StoredRecord):
    """A reply of known quality; see `aloe_jax.benchmark.calibration`."""

    kind: str
    quality: int


class Page(StoredRecord):
    """One rater's page; `items` are in its order, checks among them."""

    file: str
    page: str
    items: list[str]


class Key(StoredRecord):
    """Everything that the pages do not say."""

    format: Literal["aloe-rating-key"] = FORMAT
    version: Literal[1] = VERSION
    seed: int
    simulated: list[str]
    pages: list[Page]
    items: dict[str, Item]
    checks: dict[str, Check] = Field(default={})

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for page in self.pages:
            for item in page.items:
                if item not in self.items and item not in self.checks:
                    raise ValueError(f"page {page.file} shows item {item}, of which nothing is said")
        return self

    def models(self) -> list[str]:
        """All models, in the order in which they first come."""
        return list(dict.fromkeys(place.model for item in self.items.values() for place in item.places))

    def judges(self) -> list[str]:
        """All judges, in the order in which they first come."""
        names = (name for item in self.items.values() for place in item.places for name in place.judges)
        return list(dict.fromkeys(names))


def read_key(path: str | Path) -> Key:
    """Read a key. Raises AloeError naming the file and the field."""
    return read_record(Key, path, "give the .key.json that `python -m aloe_jax.rate page` wrote beside the pages")
