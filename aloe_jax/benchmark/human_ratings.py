"""Ratings by people: the file that the human-rating page saves, and how far the judges agree with it.

The file is one JSON object:

    {
      "format": "aloe-human-ratings", "version": 1,
      "rater": "anna",                    who rated; one file a person
      "page": "3f…",                      digest of the items that the page showed, in their order
      "ratings": [
        {"item": "9b2c…", "rating": 4, "note": "", "seconds": 21.5},
        {"item": "07aa…", "rating": null, "note": "cannot judge"},
        {"item": "51e0…", "rating": null, "note": "ask again", "undecided": true}
      ]
    }

An item is a reply in its context, named by `item_id`: a digest of persona, messages and reply, which says nothing of
the model (the page is blind) and finds the reply again in any run that has it. `rating` is 1 to 5, null where the
person passed over the item or, `undecided`, has but written a note so far. `seconds` is the time for which the item
was read. `note`, `seconds` and `undecided` may be left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from aloe_jax.benchmark.dialogue import digest
from aloe_jax.benchmark.intervals import Array
from aloe_jax.benchmark.results import StoredRecord
from aloe_jax.conversation import Message, Persona, read_record
from aloe_jax.errors import AloeError

FORMAT: Literal["aloe-human-ratings"] = "aloe-human-ratings"
VERSION: Literal[1] = 1


class HumanRating(StoredRecord):
    """What one person said of one reply."""

    item: str = Field(min_length=1)
    rating: int | None = Field(ge=1, le=5, strict=True)
    note: str = ""
    seconds: float | None = Field(default=None, ge=0)
    undecided: bool = False


class HumanRatings(StoredRecord):
    """All that one person rated on one page."""

    format: Literal["aloe-human-ratings"] = FORMAT
    version: Literal[1] = VERSION
    rater: str = Field(min_length=1)
    page: str = ""
    ratings: list[HumanRating]


def item_id(persona: Persona, path: Sequence[Message], reply: str) -> str:
    """The name of a reply in its context; `path` ends with the user's message."""
    return digest(persona.model_dump(), [dict(message) for message in path], reply)


def read_ratings(path: str | Path) -> HumanRatings:
    """Read a file that the page saved. Raises AloeError naming the file and the field."""
    found = read_record(HumanRatings, path, "give a file that the rating page saved")
    seen: set[str] = set()
    for rating in found.ratings:
        if rating.item in seen:
            raise AloeError(f"{path}: item {rating.item} is rated twice; keep one of the two ratings")
        seen.add(rating.item)
    return found


def read_people(paths: Sequence[str | Path]) -> dict[str, dict[str, int]]:
    """Ratings by item of every rater; a rater may have several files.

    Raises AloeError as `read_ratings` does, and where two files of a rater give an item different ratings.
    """
    return by_rater({str(path): read_ratings(path) for path in paths})


def by_rater(files: Mapping[str, HumanRatings]) -> dict[str, dict[str, int]]:
    """Ratings by item of every rater, of files by path. Raises AloeError as `read_people` does."""
    people: dict[str, dict[str, int]] = {}
    for path, found in files.items():
        own = people.setdefault(found.rater, {})
        for one in found.ratings:
            if one.rating is None:
                continue
            if own.setdefault(one.item, one.rating) != one.rating:
                raise AloeError(
                    f"{path}: {found.rater} gave item {one.item} another rating in a file before; "
                    "give every person a name of their own, or leave one file out"
                )
    return people


def ratings_of(people: Mapping[str, Mapping[str, int]], items: Sequence[str]) -> Array:
    """The people's ratings of some items [raters, items], NaN = not rated."""
    table = [[ratings.get(item, np.nan) for item in items] for ratings in people.values()]
    return np.array(table, np.float64).reshape(len(people), len(items))
