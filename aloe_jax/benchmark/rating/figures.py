"""What is stored of the agreement of judges and people: one JSON object of the type `PeopleAgreement`.

The replies that people rated were drawn evenly over the judges' ratings (see `sample`). Agreement is therefore given
twice: `as_drawn`, every reply counting once, which spreads over the whole scale and is high; and `in_runs`, every
reply counting for those that it stands for, which is agreement on replies as they fall in the runs. Mean ratings and
their differences are given in the second way only: in the first they would be an artefact of how replies were drawn.
"""

from __future__ import annotations

from typing import Literal

from aloe_jax.benchmark.results import Number, StoredEstimate, StoredRecord

FORMAT: Literal["aloe-people-agreement"] = "aloe-people-agreement"
VERSION: Literal[1] = 1
INTERVALS = "95% intervals over cases; profiles and personalities that cases share are taken as given"


class Agreed(StoredRecord):
    """Krippendorff's ordinal alpha and Spearman's correlation, over `units` that two have rated."""

    units: int
    alpha: StoredEstimate
    spearman: StoredEstimate


class OfJudge(StoredRecord):
    """A judge against people. `with_one` is the mean over persons, to be read beside people among themselves."""

    judge: str
    with_one: Agreed
    with_mean: Agreed


class Agreements(StoredRecord):
    """All agreement under one weighting of the replies."""

    people: Agreed  # among themselves
    judges: list[OfJudge]


class OfModel(StoredRecord):
    """Mean ratings of one model's replies, and how far the judges' mean is from the people's."""

    model: str
    items: int
    people: StoredEstimate
    judge: StoredEstimate
    bias: StoredEstimate  # judge less people
    favour: StoredEstimate | None  # its bias less the mean bias of the other models; None for a single model


class Checked(StoredRecord):
    """How a person rated replies of known quality."""

    given: int
    good: Number  # mean ratings
    bad: Number
    told_apart: Number  # share of pairs of a good and a bad one in which the good one is rated higher
    attentive: bool | None


class OfRater(StoredRecord):
    """One person. `missing` counts what is on the person's pages and has neither a rating nor was passed over."""

    rater: str
    pages: list[str]
    rated: int
    passed: int
    missing: int
    mean: Number
    seconds: Number  # median for a reply
    spearman: Number  # with the mean of the other raters
    checks: Checked | None


class PeopleAgreement(StoredRecord):
    """Everything. `judges` in `as_drawn` and `in_runs`: all judges, after their mean where there are several."""

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
