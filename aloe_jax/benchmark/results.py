"""What a benchmark run stores: metrics.json and transcripts.jsonl, as types, written and read.

`metrics.json` is one object of the type `Results`, without the transcripts; `transcripts.jsonl` has a line of the
type `Case` for every model and persona, model by model. Undefined numbers are null. `load_results` reads both, so
that reports can cover any number of runs.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import to_jsonable_python

from aloe_jax.benchmark.case_design import Array, CaseDesign, DesignKind
from aloe_jax.benchmark.settings import Sees
from aloe_jax.conversation import Persona, first_fault
from aloe_jax.errors import AloeError
from aloe_jax.storage.files import write_atomically

FORMAT: Literal["aloe-benchmark"] = "aloe-benchmark"
VERSION: Literal[2] = 2
METRICS, TRANSCRIPTS = "metrics.json", "transcripts.jsonl"
LOWEST, HIGHEST = 1.0, 5.0  # ratings

FactSearch = Literal["exact", "overlap"]  # how facts are found in a text; see `aloe_jax.benchmark.automatic`
Statistic = Literal["average", "ir", "final"]  # that models are compared by
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
Outcome = Literal["first", "second", "tie"]  # of two dialogues side by side
CandidateKind = Literal["model", "remote", "reference"]
# Why there is no more of a reply: an end of turn, a limit, a full context, or the number of sentences that the
# responder's prompt allows, to which a remote model's reply was shortened; unknown in what earlier versions stored.
ReplyEnd = Literal["stop", "max_new_tokens", "length", "shortened", "unknown"]


def _defined(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_defined)]  # None: undefined, also given as NaN


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
    rating: Number  # mean of the votes; of those that are there less their judges' leniency where some are missing
    reason: str
    votes: list[StoredVote]
    words: int
    revealed: list[str]  # by the user's messages up to this one
    mentioned: list[str]  # by the reply, revealed before
    leaked: list[str]  # by the reply, not revealed before
    untrue: list[str]  # words for facts of somebody else
    ended: ReplyEnd = "unknown"


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


class StoredBounds(StoredRecord):
    """The least and the most that a number could be if every missing rating were known: all between 1 and 5."""

    least: float
    most: float


class Level(StoredRecord):
    """The alignment metrics of some ratings: of a model, of one judge, or of a group of cases.

    `al*` and `coverage_by_turn` are [K turns], index 0 being turn 1.
    """

    cases: int
    turns: int
    al: list[Number]
    al_low: list[Number]
    al_high: list[Number]
    average: StoredEstimate
    ir: StoredEstimate
    n_ir: StoredEstimate
    r2: StoredEstimate
    coverage_by_turn: list[float]  # share of the cases with a rating
    coverage: float
    bounds: dict[Statistic, StoredBounds] = {}  # nothing where no rating is missing


class StoredDesign(StoredRecord):
    """Who the cases are of, which decided how intervals and p-values were computed."""

    kind: DesignKind
    people: int
    profiles: int
    personalities: int


def inference_design(results: Results) -> DesignKind | None:
    """The design by which intervals and p-values of a run were computed.

    None where an earlier version took all cases for independent, and some share a person, a profile or a personality.
    """
    if results.design is not None:
        return results.design.kind
    cases = next(iter(results.cases.values()), [])
    kind = CaseDesign.of([case.persona for case in cases]).kind
    return kind if kind == "distinct" else None


class CaseGroup(StoredRecord):
    """The cases of one profile or of one personality; intervals take that profile or personality as given."""

    text: str  # the profile or the personality
    personas: list[str]
    average: StoredEstimate
    ir: StoredEstimate


class StoredAutomatic(StoredRecord):
    """What was counted in all replies of a model, without a judge. Shares and means are over replies.

    `distinct_1` and `distinct_2` are distinct words and pairs of words as a share of all in the model's replies (Li et
    al. 2016, arXiv 1510.03055); they fall with the amount of text, so compare models that said about as much.
    `distinct_2_within` is the mean of the same over single dialogues: how little a model repeats itself to one person.
    """

    way: FactSearch
    words: Number
    distinct_1: Number
    distinct_2: Number
    distinct_2_within: Number
    mentioned: Number  # share of the replies after a first fact was revealed that mention a revealed one
    leaked: Number  # share of the replies that let out a fact that had not been revealed
    untrue: Number  # share of the replies that assert a fact of somebody else; None where it cannot be known
    words_by_turn: list[Number]
    mentioned_by_turn: list[Number]
    leaked_by_turn: list[Number]


class StoredTraining(StoredRecord):
    """How a model was trained: models of one `recipe` differ by the seeds of their training only.

    `stages` and `seeds` are of its runs, from the first that was trained to the last (`aloe_jax.publishing.recipe`).
    """

    recipe: str  # 16 hex digits
    stages: tuple[str, ...]
    seeds: tuple[int, ...]


class StoredReplies(StoredRecord):
    """Shares of a model's replies with a defect (`aloe_jax.benchmark.defects`), None where there is no reply.

    `cut` and `shortened` are of the replies of which it is known why they ended; of `unknown` it is not.
    """

    replies: int
    unknown: int
    cut: Number
    shortened: Number
    empty: Number
    earlier: Number  # said before in the same dialogue
    looping: Number  # the same words over and over
    repeated: Number  # earlier or looping


class ModelResults(Level):
    """All numbers of one model."""

    kind: CandidateKind
    reference: bool  # a scripted line to read the others by
    sees: Sees = "history"  # otherwise it is a control
    control_of: str | None = None  # the model that it is a control of, where that is in the run
    source: dict[str, object]  # its settings
    complete: bool  # no case stopped early and no vote is missing; where not, the headline says so
    votes_coverage: float  # share of the votes asked for, of all replies there should be, that are there
    stopped: dict[str, str]  # persona -> why its dialogue ended early
    histogram: list[list[int]]  # by turn: how many votes of 1, 2, 3, 4, 5
    judges: dict[str, Level]  # by judge, from the mean of its votes
    by_profile: list[CaseGroup]
    by_personality: list[CaseGroup]
    automatic: StoredAutomatic
    training: StoredTraining | None = None  # None: no run of ours, or scored before this was stored
    replies: StoredReplies | None = None  # None in results of before this was counted

    @property
    def under_test(self) -> bool:
        """Whether it is neither a reference line nor a control."""
        return not self.reference and self.sees == "history"


class StoredDifference(StoredRecord):
    """A number of `second` minus that of `first`, with its 95% interval, over the ratings that both have."""

    first: str
    second: str
    statistic: Statistic
    value: Number
    low: Number
    high: Number
    p: Number  # two-sided, paired: a permutation test of distinct people, else Student's t (see `StoredDesign`)
    p_holm: Number  # corrected for all tests of the run, those side by side too; None before that is done
    cells: int | None = None  # (case, turn) in which both have a rating; None: stored before they were paired so
    bounds: StoredBounds | None = None  # None where no rating is missing


class StoredSideBySide(StoredRecord):
    """What judges prefer of two models' dialogues. Counts are cases; `win_rate` is of `second`, a tie counting half.

    `p` is two-sided, of the sign test over the cases that are no ties, or Student's t where people share profiles or
    personalities; `p_holm` is corrected together with the tests of the run's differences (None in results of earlier
    versions). `shown_first` is the share of preferences
    that went to the dialogue that was read first: 0.5 for a judge without a bias of position. `contradictions` is
    the share of (case, judge) in which swapping the order turned the preference round.
    """

    first: str
    second: str
    wins: int  # of `second`
    ties: int
    losses: int
    win_rate: Number
    low: Number
    high: Number
    p: Number
    p_holm: Number = None
    shown_first: Number
    contradictions: Number
    coverage: float  # share of the comparisons asked for that could be read
    outcomes: tuple[Outcome | None, ...]  # case by case; None where no judge could be read in both orders
    missing: Counter[str] = Field(default_factory=Counter, exclude=True)  # why there is no answer -> comparisons


class StoredAgreement(StoredRecord):
    """How far raters agree; None where it is undefined (one rater, or nothing rated by two)."""

    raters: int
    units: int  # rated by two raters or more
    alpha: Number  # Krippendorff's, ordinal: 1 is perfect, 0 what chance gives
    spearman: Number  # mean over all pairs of raters


class StoredOrder(StoredRecord):
    """How a judge rated replies that should be rated `better` above others, paired within conversations."""

    better: str
    worse: str
    conversations: int  # whose ratings are all there
    difference: Number  # mean over the conversations
    p: Number  # one-sided, of the test that flips the signs of the differences; None with fewer than two of them


class StoredCalibration(StoredRecord):
    """How a judge rated replies of known quality."""

    judge: str
    ratings: dict[str, list[int | None]]  # kind of reply -> by persona
    correlation: Number
    coverage: float  # share of answers that could be read
    passed: bool
    orders: list[StoredOrder] = []  # none in results of before the rule was about them
    missing: Counter[str] = Field(default_factory=Counter, exclude=True)  # why there is no rating -> replies

    def means(self) -> dict[str, float | None]:
        """The mean rating of each kind of reply."""
        given = {kind: [r for r in ratings if r is not None] for kind, ratings in self.ratings.items()}
        return {kind: fmean(ratings) if ratings else None for kind, ratings in given.items()}


class StoredWithPeople(StoredRecord):
    """Agreement of people among themselves, and of the judges' mean rating with the people's mean rating.

    `bias` is the judges' mean rating minus that of the people, over the same items. `weighted`: items count as their
    replies fall in the run (`aloe_jax.benchmark.rating.weights`); not so in what earlier versions stored.
    """

    raters: list[str]
    items: int  # rated by a person, and by a judge in this run
    unknown: int  # rated by a person and not in this run
    people: StoredAgreement  # on those items
    judge: StoredAgreement
    bias: Number
    weighted: bool = False


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
    design: StoredDesign | None = None  # None: stored when every case was taken for a person of its own
    models: dict[str, ModelResults]
    differences: list[StoredDifference]  # between models under test
    controls: list[StoredDifference] = []  # of models under test and their own controls
    side_by_side: list[StoredSideBySide]
    agreement: StoredAgreement | None  # of all judges' votes on all replies; None with a single vote a reply
    calibration: list[StoredCalibration]
    people: StoredWithPeople | None
    same_family: list[str] = []  # warnings of self-preference bias, a sentence per judge
    usage: dict[str, StoredUsage]  # "MODEL/ROLE"
    settings: dict[str, object]
    cases: dict[str, list[Case]] = Field(default={}, exclude=True)  # model -> its dialogues, from transcripts.jsonl


def ratings_of_cases(cases: Sequence[Case], turns: int) -> Array:
    """The ratings [N cases, `turns`] of the first turns of dialogues; NaN where one has no rating, or no such turn."""
    ratings = np.full((len(cases), turns), np.nan)
    for row, case in enumerate(cases):
        for column, turn in enumerate(case.turns[:turns]):
            ratings[row, column] = np.nan if turn.rating is None else turn.rating
    return ratings


def write_results(directory: str | Path, results: Results) -> None:
    """Write both files, at first under temporary names. Raises OSError if it cannot."""
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
    # Not splitlines(): a reply may hold characters that it takes for the end of a line.
    for number, line in enumerate(_read(transcripts).split("\n"), 1):
        if not line:
            continue
        where = f"{transcripts} line {number}"
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


def as_json(value: object) -> object:
    """Dataclasses, arrays and tuples as JSON values, with None for NaN and infinities."""
    return to_jsonable_python(value, inf_nan_mode="null", fallback=np.ndarray.tolist)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise AloeError(f"{path}: cannot be read ({error.strerror}); give the output directory of a run") from None


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
