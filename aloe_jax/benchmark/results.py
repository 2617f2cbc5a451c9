"""What a benchmark run stores: metrics.json and transcripts.jsonl, as types, written and read.

`metrics.json` is one object of the type `Results`, without the transcripts; `transcripts.jsonl` has a line of the
type `Case` for every model and persona, model by model. Undefined numbers are null. `load_results` reads both, so
that reports can be made of any number of runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aloe_jax.conversation import Persona, first_fault
from aloe_jax.errors import AloeError
from aloe_jax.storage.files import write_atomically

FORMAT: Literal["aloe-benchmark"] = "aloe-benchmark"
VERSION: Literal[2] = 2
METRICS, TRANSCRIPTS = "metrics.json", "transcripts.jsonl"

Number = float | None  # None: undefined
FactSearch = Literal["exact", "overlap"]  # how facts are found in a text; see `aloe_jax.benchmark.fact_use`
Statistic = Literal["average", "ir", "final"]  # that models are compared by
Outcome = Literal["first", "second", "tie"]  # of two dialogues side by side
CandidateKind = Literal["model", "remote", "reference"]


class StoredRecord(BaseModel):
    """What is written to a file and read again: nothing in it is changed, and no other field is accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


# ---------------------------------------------------------------- transcripts


class StoredVote(StoredRecord):
    """One rating of one reply; None where the judge's answer could not be read."""

    judge: str
    number: int
    rating: int | None
    reason: str


class StoredTurn(StoredRecord):
    """One exchange with all that is known of it. Facts are sentences of the persona's description."""

    user: str
    reply: str
    item: str  # what the human-rating page calls this reply
    rating: Number  # mean of the votes
    reason: str
    votes: list[StoredVote]
    words: int
    revealed: list[str]  # by the user's messages up to this one
    mentioned: list[str]  # by the reply, revealed before
    leaked: list[str]  # by the reply, not revealed before
    untrue: list[str]  # words for facts of somebody else


class Case(StoredRecord):
    """One model's dialogue with one persona. `stopped` says why it ended early."""

    model: str
    persona: Persona
    stopped: str | None
    turns: list[StoredTurn]


# ---------------------------------------------------------------- numbers


class StoredEstimate(StoredRecord):
    """A number with its 95% interval."""

    value: Number
    low: Number
    high: Number


class Level(StoredRecord):
    """The alignment metrics of some ratings: of a model, of one judge, or of a group of cases."""

    cases: int
    turns: int
    al: list[Number]
    al_low: list[Number]
    al_high: list[Number]
    average: StoredEstimate
    ir: StoredEstimate
    n_ir: StoredEstimate
    r2: StoredEstimate
    coverage_by_turn: list[float]
    coverage: float


class CaseGroup(StoredRecord):
    """The cases of one profile or of one personality."""

    text: str  # the profile or the personality
    personas: list[str]
    average: StoredEstimate
    ir: StoredEstimate


class StoredAutomatic(StoredRecord):
    """What was counted without a judge; see `aloe_jax.benchmark.automatic`."""

    way: FactSearch
    words: Number
    distinct_1: Number
    distinct_2: Number
    distinct_2_within: Number
    mentioned: Number
    leaked: Number
    untrue: Number
    words_by_turn: list[Number]
    mentioned_by_turn: list[Number]
    leaked_by_turn: list[Number]


class ModelResults(Level):
    """All numbers of one model."""

    kind: CandidateKind
    reference: bool  # a scripted line to read the others by
    source: dict[str, object]  # its settings
    complete: bool  # no case stopped early and no vote is missing; where not, the headline says so
    votes_coverage: float  # share of the votes asked for, of all replies there should be, that are there
    stopped: dict[str, str]  # persona -> why its dialogue ended early
    histogram: list[list[int]]  # by turn: how many votes of 1, 2, 3, 4, 5
    judges: dict[str, Level]  # by judge, each from the mean of its votes
    by_profile: list[CaseGroup]
    by_personality: list[CaseGroup]
    automatic: StoredAutomatic


class StoredDifference(StoredRecord):
    """A number of `second` minus that of `first`, paired over the cases."""

    first: str
    second: str
    statistic: Statistic
    value: Number
    low: Number
    high: Number
    p: Number  # two-sided paired permutation test
    p_holm: Number  # corrected for all tests of this list


class StoredSideBySide(StoredRecord):
    """What judges prefer of two models' dialogues; see `aloe_jax.benchmark.pairwise`."""

    first: str
    second: str
    wins: int
    ties: int
    losses: int
    win_rate: Number
    low: Number
    high: Number
    p: Number
    shown_first: Number
    contradictions: Number
    coverage: float
    outcomes: list[Outcome | None]


class StoredAgreement(StoredRecord):
    """Krippendorff's ordinal alpha, and Spearman's correlation averaged over pairs of raters."""

    raters: int
    units: int
    alpha: Number
    spearman: Number


class StoredCalibration(StoredRecord):
    """What a judge made of replies of known quality."""

    judge: str
    ratings: dict[str, list[int | None]]
    correlation: Number
    coverage: float
    passed: bool


class StoredWithPeople(StoredRecord):
    """Agreement with people; see `aloe_jax.benchmark.human_ratings`."""

    raters: list[str]
    items: int
    unknown: int
    people: StoredAgreement
    judge: StoredAgreement
    bias: Number


class StoredUsage(StoredRecord):
    """What the journal holds of one model in one role, all runs into this directory together."""

    calls: int
    input_tokens: int
    output_tokens: int
    cost: Number
    outcomes: dict[str, int]


class Results(StoredRecord):
    """Everything of a run. `models` are in the order of the settings, and `cases` are theirs."""

    format: Literal["aloe-benchmark"] = FORMAT
    version: Literal[2] = VERSION
    aloe_jax: str
    complete: bool  # of all models
    simulated: list[str]  # parts that the scripted simulation plays, in words
    providers: dict[str, str]
    judges: list[str]
    votes: int  # of each judge on each reply
    models: dict[str, ModelResults]
    differences: list[StoredDifference]
    side_by_side: list[StoredSideBySide]
    agreement: StoredAgreement | None  # of all judges' votes on all replies; None with a single vote a reply
    calibration: list[StoredCalibration]
    people: StoredWithPeople | None
    usage: dict[str, StoredUsage]  # "MODEL/ROLE"
    settings: dict[str, object]
    cases: dict[str, list[Case]] = Field(default={}, exclude=True)  # model -> its dialogues, from transcripts.jsonl


def write_results(directory: str | Path, results: Results) -> None:
    """Write both files, each under a temporary name first. Raises OSError if it cannot."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    metrics = json.dumps(results.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(directory / METRICS, metrics + "\n")
    lines = (case.model_dump_json() + "\n" for cases in results.cases.values() for case in cases)
    write_atomically(directory / TRANSCRIPTS, "".join(lines))


def load_results(directory: str | Path) -> Results:
    """Read what `write_results` wrote.

    Raises AloeError naming the file when one is missing, is of another version or does not fit the other.
    """
    metrics, transcripts = Path(directory) / METRICS, Path(directory) / TRANSCRIPTS
    record = _json(_read(metrics), str(metrics))
    if not isinstance(record, dict) or record.get("format") != FORMAT or record.get("version") != VERSION:
        version = record.get("version", 1) if isinstance(record, dict) else None
        raise AloeError(
            f"{metrics}: results of version {version}, this program reads version {VERSION}; give the command of the "
            "run again, which finds its dialogues and ratings in the journal"
        )
    models = record.get("models")
    cases: dict[str, list[Case]] = {name: [] for name in models} if isinstance(models, dict) else {}
    for where, line in _lines(transcripts):
        case = _parsed(Case, _json(line, where), where)
        if case.model not in cases:
            raise AloeError(f"{where}: model {case.model} is not in {metrics}; give the command of the run again")
        cases[case.model].append(case)
    results = _parsed(Results, record, str(metrics))
    for name, model in results.models.items():
        if len(cases[name]) != model.cases:
            raise AloeError(
                f"{transcripts}: has {len(cases[name])} dialogues of {name}, {metrics} counts {model.cases}; "
                "give the command of the run again"
            )
    return results.model_copy(update={"cases": cases})


def stored[S: StoredRecord](kind: type[S], value: object, without: str = "") -> S:
    """A dataclass as the record of its name, but for the field `without`."""
    return kind.model_validate({name: item for name, item in fields_as_json(value).items() if name != without})


def fields_as_json(value: object) -> dict[str, object]:
    """The fields of a dataclass as JSON values."""
    assert is_dataclass(value) and not isinstance(value, type)
    return {name: as_json(item) for name, item in asdict(value).items()}


def as_json(value: object) -> object:
    """Dataclasses, arrays and tuples as JSON values, with None for NaN and infinities."""
    if is_dataclass(value) and not isinstance(value, type):
        return fields_as_json(value)
    if isinstance(value, Mapping):
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return as_json(value.tolist())
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise AloeError(f"{path}: cannot be read ({error.strerror}); give the output directory of a run") from None


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    # Not splitlines(): a reply may hold characters that it takes for the end of a line.
    for number, line in enumerate(_read(path).split("\n"), 1):
        if line:
            yield f"{path} line {number}", line


def _json(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise AloeError(f"{where}: not valid JSON ({error}); give the command of the run again") from None


def _parsed[R: BaseModel](kind: type[R], value: object, where: str) -> R:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise AloeError(f"{where}: {first_fault(error)}; give the command of the run again") from None
