"""Ratings: judges who know the persona rate every reply of a dialogue, every judge alone and every reply for itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from pydantic import BaseModel, Field

from aloe_jax.benchmark.dialogue import Dialogue, digest
from aloe_jax.benchmark.intervals import Array
from aloe_jax.benchmark.missing import RatingRange
from aloe_jax.benchmark.results import HIGHEST, LOWEST
from aloe_jax.benchmark.runner import WorkerPool
from aloe_jax.benchmark.settings import EvaluateSettings
from aloe_jax.conversation import Message, Persona
from aloe_jax.errors import AloeError
from aloe_jax.llm.ledger import Ledger
from aloe_jax.roles import Cast, PreferredDialogue, RoleError, persistent


@dataclass(frozen=True)
class Vote:
    """One judge's rating 1–5 with the reason; None where none could be had in three attempts of this run."""

    judge: str
    number: int  # of the judge's votes on this reply, from 0
    rating: int | None
    reason: str


@dataclass(frozen=True)
class JudgedReply:
    """All votes on one reply."""

    votes: tuple[Vote, ...]

    @property
    def rating(self) -> float | None:
        """The mean of the votes that there are; None where there is none."""
        given = [vote.rating for vote in self.votes if vote.rating is not None]
        return fmean(given) if given else None

    def adjusted(self, leniency: Mapping[str, float]) -> float | None:
        """The same where a vote is missing, less the `leniency` of the judges who gave the others, within 1 to 5.

        That assumes that a judge is as lenient with every model and reply (the additive model of `judge_leniency`):
        where its leniency differs by model and it fails for one model more often, the numbers are off by that. `range`
        assumes nothing.
        """
        given = [vote.rating - leniency.get(vote.judge, 0.0) for vote in self.votes if vote.rating is not None]
        if len(given) in (0, len(self.votes)):
            return self.rating
        return min(5.0, max(1.0, fmean(given)))

    @property
    def range(self) -> tuple[float, float]:
        """The least and the most that the mean of all votes may be, missing ones between 1 and 5."""
        if not self.votes:
            return LOWEST, HIGHEST
        given = sum(vote.rating for vote in self.votes if vote.rating is not None)
        missing = sum(vote.rating is None for vote in self.votes)
        return (given + missing * LOWEST) / len(self.votes), (given + missing * HIGHEST) / len(self.votes)

    @property
    def reason(self) -> str:
        """The first reason given for a rating, or why there is none."""
        return next((vote.reason for vote in self.votes if vote.rating is not None), self.votes[0].reason)


class _Rated(BaseModel):
    """A rating as it is stored."""

    rating: int = Field(ge=1, le=5, strict=True)
    reason: str


class Judge:
    """A judge by name. Every answer is journaled under what it depends on, so that it is asked for once.

    What is no answer is not journaled as one: a later run asks again. `setting` is the name of its settings.
    """

    def __init__(self, name: str, cast: Cast, ledger: Ledger, seed: int, setting: str = "roles.judge") -> None:
        self.name, self._cast, self._ledger, self._seed, self._setting = name, cast, ledger, seed, setting
        self._rating, self._comparing = cast.describe("judge"), cast.describe("judge", "comparer")

    def vote(self, persona: Persona, path: Sequence[Message], reply: str, number: int = 0) -> Vote:
        """Rate a reply to a path that ends with the user's message.

        Raises AloeError when the judge cannot be reached; an answer that cannot be read is a missing rating.
        """
        turn = len(path) // 2
        more = [number] if number else []
        key = digest(self._rating, self._seed, turn, [persona.model_dump(), list(path), reply], *more)
        found = self._stored(_Rated, "rating", key)
        if found is None:
            parts: tuple[str | int, ...] = (self._seed, "judge", persona.id, turn, *more)
            try:
                answer = persistent(lambda s: self._cast.judge(persona, path, reply, s), *parts)
            except RoleError as error:
                return Vote(self.name, number, None, f"no rating: {self._said(error)}")
            found = _Rated(rating=answer.rating, reason=answer.reason)
            self._ledger.put("rating", key, found.model_dump(), replacing=True)
        return Vote(self.name, number, found.rating, found.reason)

    def compare(self, persona: Persona, first: Sequence[Message], second: Sequence[Message]) -> PreferredDialogue | str:
        """Which of two dialogues suits the persona better, or why no answer could be read."""
        key = digest(self._comparing, self._seed, [persona.model_dump(), list(first), list(second)])
        found = self._stored(PreferredDialogue, "comparison", key)
        if found is None:
            parts = (self._seed, "comparer", persona.id, digest(list(first), list(second)))
            try:
                found = persistent(lambda s: self._cast.compare(persona, first, second, s), *parts)
            except RoleError as error:
                return f"no comparison: {self._said(error)}"
            self._ledger.put("comparison", key, found.model_dump(), replacing=True)
        return found

    def _stored[A: BaseModel](self, form: type[A], kind: str, key: str) -> A | None:
        """The answer in the journal. Earlier versions also noted that there was none."""
        record = self._ledger.get(kind, key)
        if record is None or record.get("rating", record.get("preferred", "")) is None:
            return None
        return self._ledger.read(form, kind, key, record)

    def _said(self, error: RoleError) -> str:
        return str(error).replace("roles.judge", self._setting)


def judges_of(settings: EvaluateSettings, ledger: Ledger) -> list[Judge]:
    """The judges that the settings name. Raises AloeError for one without a model, a key or a needed price."""
    if not settings.judging.judges:
        return [Judge("judge", Cast(settings.roles, ledger, only=("judge",)), ledger, settings.seed)]
    judges = []
    for name, role in settings.judging.judges.items():
        setting = f"judging.judges.{name}"
        with named(setting, "judge"):
            cast = Cast(settings.roles.model_copy(update={"judge": role}), ledger, only=("judge",))
        judges.append(Judge(name, cast, ledger, settings.seed, setting))
    return judges


@contextmanager
def named(setting: str, role: str) -> Iterator[None]:
    """Errors of a role that stands elsewhere in the settings name that `setting`, not `roles.ROLE`."""
    try:
        yield
    except AloeError as error:
        raise type(error)(str(error).replace(f"roles.{role}", setting)) from None


class Ratings:
    """Ratings that come in while dialogues go on. To be used as a context, which ends when all are there."""

    def __init__(
        self,
        judges: Sequence[Judge],
        votes: int,
        concurrency: int,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        """`progress` is called for every vote, from several threads."""
        self._judges, self._votes, self._progress = judges, votes, progress
        self._pool = WorkerPool(concurrency)
        self._lock = threading.Lock()
        self._found: dict[tuple[int, int], dict[tuple[int, int], Vote]] = {}
        self._error: Exception | None = None

    def want(self, dialogue: Dialogue, turn: int) -> None:
        """Have all judges rate a reply (`turn` is 0-based). Raises what an earlier call for a rating raised."""
        if self._error is not None:
            raise self._error
        path, reply = dialogue.path(turn), dialogue.exchanges[turn].reply.text
        key = (id(dialogue), turn)

        def rate(judge: int, number: int) -> None:
            if self._error is not None:
                return
            vote = self._judges[judge].vote(dialogue.persona, path, reply, number)
            with self._lock:
                self._found.setdefault(key, {})[judge, number] = vote
            self._progress()

        for judge in range(len(self._judges)):
            for number in range(self._votes):
                self._pool.submit(rate, judge, number, failed=self._fail)

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error

    def verdicts(self, dialogue: Dialogue) -> list[JudgedReply]:
        """One verdict for each reply of a dialogue; all of them were wanted, and the context has ended."""
        return [
            JudgedReply(tuple(vote for _, vote in sorted(self._found[id(dialogue), turn].items())))
            for turn in range(len(dialogue.exchanges))
        ]

    def __enter__(self) -> Ratings:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._pool.__exit__(kind, *rest)
        if kind is None and self._error is not None:
            raise self._error


def ratings_table(verdicts: Sequence[Sequence[JudgedReply]], turns: int, leniency: Mapping[str, float]) -> Array:
    """Ratings [N cases, K turns], the mean over the votes (`JudgedReply.adjusted`), with NaN for every missing one."""
    table = np.full((len(verdicts), turns), np.nan)
    for case, row in enumerate(verdicts):
        for turn, verdict in enumerate(row):
            rating = verdict.adjusted(leniency)
            if rating is not None:
                table[case, turn] = rating
    return table


def range_table(verdicts: Sequence[Sequence[JudgedReply]], turns: int) -> RatingRange:
    """What the mean of all votes may be on every reply (`JudgedReply.range`), [N cases, K turns] of each end."""
    found = RatingRange.of(np.full((len(verdicts), turns), np.nan))
    for case, row in enumerate(verdicts):
        for turn, verdict in enumerate(row):
            found.least[case, turn], found.most[case, turn] = verdict.range
    return found


def judge_leniency(verdicts: Iterable[JudgedReply]) -> dict[str, float]:
    """How much higher every judge rates than the mean of all judges, from the replies that several of them rated.

    The least-squares effects of the additive model rating = reply + judge, whose sum is 0. Judges with no common reply
    cannot be compared: they get 0.
    """
    names: dict[str, int] = {}
    normal, excess = np.zeros((0, 0)), np.zeros(0)
    for verdict in verdicts:
        for vote in verdict.votes:
            names.setdefault(vote.judge, len(names))
        if len(names) > len(excess):
            more = len(names) - len(excess)
            normal, excess = np.pad(normal, (0, more)), np.pad(excess, (0, more))
        given = [(names[vote.judge], vote.rating) for vote in verdict.votes if vote.rating is not None]
        if len(given) < 2:
            continue
        counts = np.bincount([judge for judge, _ in given], minlength=len(names)).astype(float)
        sums = np.bincount([judge for judge, _ in given], [rating for _, rating in given], len(names))
        normal += np.diag(counts) - np.outer(counts, counts) / len(given)
        excess += sums - counts * sums.sum() / len(given)
    found = np.linalg.lstsq(normal, excess, rcond=1e-9)[0] if names else excess  # the shortest: of sum 0
    return {name: float(found[number]) for name, number in names.items()}


def votes_table(verdicts: Sequence[Sequence[JudgedReply]], turns: int) -> dict[tuple[str, int], Array]:
    """For every judge and vote its own ratings [N, K], with NaN for every missing one."""
    tables: dict[tuple[str, int], Array] = {}
    for case, row in enumerate(verdicts):
        for turn, verdict in enumerate(row):
            for vote in verdict.votes:
                table = tables.setdefault((vote.judge, vote.number), np.full((len(verdicts), turns), np.nan))
                if vote.rating is not None:
                    table[case, turn] = vote.rating
    return tables
