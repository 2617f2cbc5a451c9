"""What is stored of the agreement of judges and people: one JSON object of the type `PeopleAgreement`.

The replies that people rated were drawn evenly over the judges' ratings (see `sample`). Agreement is therefore given
twice: `as_drawn`, every reply counting once, which spreads over the whole scale and is high; and `in_runs`, every
reply counting for those that it stands for, which is agreement on replies as they fall in the runs. Mean ratings and
their differences are given in the second way only: in the first they would be an artefact of how replies were drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from aloe_jax.benchmark.rating.key import FORM
from aloe_jax.benchmark.results import Number, StoredEstimate
from aloe_jax.conversation import read_record

FORMAT: Literal["aloe-people-agreement"] = "aloe-people-agreement"
VERSION: Literal[1] = 1


class Agreed(BaseModel):
    """Krippendorff's ordinal alpha and Spearman's correlation, over `units` that two have rated."""

    model_config = FORM
    units: int
    alpha: StoredEstimate
    spearman: StoredEstimate


class OfJudge(BaseModel):
    """A judge against people. `with_one` is the mean over persons, to be read beside people among themselves."""

    model_config = FORM
    judge: str
    with_one: Agreed
    with_mean: Agreed


class Agreements(BaseModel):
    """All agreement under one weighting of the replies."""

    model_config = FORM
    people: Agreed  # among themselves
    judges: list[OfJudge]


class OfModel(BaseModel):
    """Mean ratings of one model's replies, and how far the judges' mean is from the people's."""

    model_config = FORM
    model: str
    items: int
    people: StoredEstimate
    judge: StoredEstimate
    bias: StoredEstimate  # judge less people
    favour: StoredEstimate | None  # its bias less the mean bias of the other models; None for a single model


class Checked(BaseModel):
    """What a rater made of replies of known quality."""

    model_config = FORM
    given: int
    good: Number  # mean ratings
    bad: Number
    told_apart: Number  # share of pairs of a good and a bad one in which the good one is rated higher
    attentive: bool | None


class OfRater(BaseModel):
    """One person. `missing` counts what is on the person's pages and has neither a rating nor was passed over."""

    model_config = FORM
    rater: str
    pages: list[str]
    rated: int
    passed: int
    missing: int
    mean: Number
    seconds: Number  # median for a reply
    spearman: Number  # with the mean of the other raters
    checks: Checked | None


class PeopleAgreement(BaseModel):
    """Everything. `judges` in `as_drawn` and `in_runs`: each, and their mean first where there are several."""

    model_config = FORM
    format: Literal["aloe-people-agreement"] = FORMAT
    version: Literal[1] = VERSION
    simulated: list[str]  # what a script played in the runs
    items: int  # replies that somebody rated
    cases: int
    raters: list[OfRater]
    as_drawn: Agreements
    in_runs: Agreements
    bias: dict[str, StoredEstimate]  # of every judge: its rating less the people's mean
    models: list[OfModel]
    missing: list[str]  # in words


def read_agreement(path: str | Path) -> PeopleAgreement:
    """Read what `python -m aloe_jax.rate agreement` wrote. Raises AloeError naming the file and the field."""
    return read_record(PeopleAgreement, path, "give a file that `python -m aloe_jax.rate agreement` wrote")
