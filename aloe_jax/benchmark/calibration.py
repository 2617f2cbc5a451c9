"""Can a judge do what it is for? It rates a set of known quality before anything else is asked.

Two people share a conversation, whose messages suit both of them, and there are five replies to its last message:

    informed      builds on this person's life and suits the character     quality 3
    generic       to the point, could have been written to anybody         quality 2
    off_persona   the reply that is informed for the other person          quality 1
    ill_mannered  rude, or far too long                                    quality 1
    empty         says next to nothing                                     quality 1

A judge passes when it rates informed replies above generic ones, and generic ones above off_persona, each by a paired
comparison: a conversation's difference is the mean over its two people, and a one-sided test that flips the signs of
these differences has p <= LEVEL. The rank correlation (Spearman) of all ratings with the quality has to reach
`threshold` besides, and enough answers have to be readable.

Since a reply that is informed for one of the two is off_persona for the other, a judge that does not look at the
person gives both the same rating, and its two differences are each other's negative: it cannot pass both tests,
whatever it rewards - length, liveliness, details. The three replies differ in length by four words at most, and
informed ones are as often the shorter. How likely judges pass, by the number of people, is in docs/benchmark.md.

One that rates everything alike has no rank correlation and does not pass. The simulated judge knows the simulated
world alone, so its set is taken from there.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

import numpy as np
from scipy.stats import permutation_test

from aloe_jax.benchmark.agreement import spearman
from aloe_jax.benchmark.judge import Judge, Vote
from aloe_jax.benchmark.results import StoredCalibration, StoredOrder
from aloe_jax.benchmark.runner import WorkerPool
from aloe_jax.conversation import Message, Persona
from aloe_jax.coverage import why
from aloe_jax.errors import AloeError
from aloe_jax.llm.world import persona_texts, replies
from aloe_jax.llm.world.fact_wording import ASKED
from aloe_jax.llm.world.style import AXES

Kind = Literal["informed", "generic", "off_persona", "ill_mannered", "empty"]
QUALITY: dict[Kind, int] = {"informed": 3, "generic": 2, "off_persona": 1, "ill_mannered": 1, "empty": 1}
ORDERS: tuple[tuple[Kind, Kind], ...] = (("informed", "generic"), ("generic", "off_persona"))  # better, worse
PEOPLE = 2  # who share a conversation
LEVEL = 0.05  # of each test
LEAST_READ = 0.8  # of the answers that have to be readable
_FLIPS = 9999  # sign flips of a test; all there are, where they are no more

type Ratings = Mapping[str, Sequence[int | None]]  # kind of reply -> by persona, those of a conversation in a row


@dataclass(frozen=True)
class Known:
    """A persona, messages that end with its own, and a reply of each quality."""

    persona: Persona
    path: tuple[Message, ...]
    replies: dict[Kind, str]


class MiscalibratedError(AloeError):
    """A judge cannot distinguish good replies from bad ones."""


def calibrate(
    judge: Judge,
    known: Sequence[Known],
    threshold: float,
    concurrency: int,
    progress: Callable[[], None] = lambda: None,
) -> StoredCalibration:
    """Have a judge rate every reply of the set. Raises AloeError when it cannot be reached.

    `progress` is called for every reply, from several threads.
    """
    votes: dict[tuple[int, Kind], Vote] = {}
    errors: list[Exception] = []

    def rate(number: int, kind: Kind) -> None:
        one = known[number]
        votes[number, kind] = judge.vote(one.persona, one.path, one.replies[kind])
        progress()

    with WorkerPool(concurrency) as pool:
        for number in range(len(known)):
            for kind in QUALITY:
                pool.submit(rate, number, kind, failed=errors.append)
    if errors:
        raise errors[0]
    ratings: dict[str, list[int | None]] = {
        kind: [votes[number, kind].rating for number in range(len(known))] for kind in QUALITY
    }
    missing = Counter(why(vote.reason) for vote in votes.values() if vote.rating is None)
    return judged(judge.name, ratings, threshold, missing)


def judged(name: str, ratings: Ratings, threshold: float, missing: Counter[str] | None = None) -> StoredCalibration:
    """What a judge's ratings of the set say of it; `missing` counts why some are not there."""
    flat = [(QUALITY[kind], rating) for kind in QUALITY for rating in ratings[kind] if rating is not None]
    correlation = spearman(*zip(*flat, strict=True)) if flat else float("nan")
    coverage = len(flat) / sum(len(ratings[kind]) for kind in QUALITY)
    orders = [_order(ratings, better, worse) for better, worse in ORDERS]
    shown = all(order.p is not None and order.p <= LEVEL for order in orders)
    return StoredCalibration(
        judge=name,
        ratings={kind: list(given) for kind, given in ratings.items()},
        correlation=correlation,
        coverage=coverage,
        passed=coverage >= LEAST_READ and correlation >= threshold and shown,  # not where it is NaN
        orders=orders,
        missing=missing or Counter(),
    )


def _order(ratings: Ratings, better: Kind, worse: Kind) -> StoredOrder:
    """Whether replies of one kind are rated above those of another, over conversations whose ratings are all there."""
    pairs = [
        None if above is None or below is None else above - below
        for above, below in zip(ratings[better], ratings[worse], strict=True)
    ]
    talks = [pairs[start : start + PEOPLE] for start in range(0, len(pairs) - PEOPLE + 1, PEOPLE)]
    differences = [
        sum(own) / PEOPLE for talk in talks if len(own := [one for one in talk if one is not None]) == PEOPLE
    ]
    value = p = float("nan")
    if differences:
        value = float(np.mean(differences))
    if len(differences) > 1:
        p = permutation_test(
            (np.array(differences),),
            lambda signed, axis: signed.mean(axis=axis),
            permutation_type="samples",
            vectorized=True,
            alternative="greater",
            n_resamples=_FLIPS,
            rng=0,
        ).pvalue
    return StoredOrder(better=better, worse=worse, conversations=len(differences), difference=value, p=float(p))


def require(found: Sequence[StoredCalibration], threshold: float) -> None:
    """Raise MiscalibratedError naming the judges that did not pass, and what they did."""
    failed = [calibration for calibration in found if not calibration.passed]
    if not failed:
        return
    said = "; ".join(f"{calibration.judge} {_failing(calibration, threshold)}" for calibration in failed)
    raise MiscalibratedError(
        f"judging: on replies of known quality, {said}. Take another judge or prompt; "
        "judging.calibrate=report goes on all the same"
    )


def _failing(calibration: StoredCalibration, threshold: float) -> str:
    if calibration.coverage < LEAST_READ:
        reasons = ", ".join(f"{count} {reason}" for reason, count in calibration.missing.most_common())
        return f"gave a readable rating in {calibration.coverage:.0%} of the cases (missing: {reasons})"
    if calibration.correlation is None:
        return "rated everything alike"
    means = ", ".join(f"{kind} {mean:.1f}" for kind, mean in calibration.means().items() if mean is not None)
    for order in calibration.orders:
        if order.p is None or order.p > LEVEL:
            p = "undefined" if order.p is None else f"{order.p:.2g}"
            return (
                f"did not rate {order.better} replies above {order.worse} ones over {order.conversations} "
                f"conversations (p = {p}, above {LEVEL}; mean ratings: {means})"
            )
    return f"has a rank correlation of {calibration.correlation:.2f}, below {threshold:g} (mean ratings: {means})"


def known_replies(scripted: bool, count: int) -> list[Known]:
    """The first `count` people of the set, at most all: of the simulated world, or of people as real judges know them.

    Those who share a conversation follow each other.
    """
    if scripted:
        talks = [_simulated(number) for number in range(-(-count // PEOPLE))]
        return [one for talk in talks for one in talk][:count]
    return list(_written()[:count])


@cache
def _written() -> tuple[Known, ...]:
    text = resources.files("aloe_jax").joinpath("benchmark/calibration.json").read_text(encoding="utf-8")
    found = []
    for talk in json.loads(text):
        path: tuple[Message, ...] = tuple(
            {"role": "assistant" if number % 2 else "user", "content": message}
            for number, message in enumerate(talk["messages"])
        )
        for number, person in enumerate(talk["people"]):
            id = f"calibration-{talk['id']}-{number + 1}"
            persona = Persona(id=id, profile=person["profile"], personality=person["personality"])
            own: dict[Kind, str] = {
                "informed": person["suits"],
                "generic": talk["generic"],
                "off_persona": talk["people"][1 - number]["suits"],
                "ill_mannered": talk["ill_mannered"],
                "empty": talk["empty"],
            }
            found.append(Known(persona, path, own))
    return tuple(found)


def _simulated(number: int) -> list[Known]:
    """Two people of opposite character and taste, and a question that says nothing of either."""
    draw = random.Random(f"calibration {number}")
    asked = draw.choice(ASKED)
    profile, personality = persona_texts.write_profile(draw), persona_texts.write_personality(draw)
    value = persona_texts.read_profile(profile)[asked.name]
    poles = persona_texts.read_personality(personality)
    people = [(profile, personality)]
    while len(people) < PEOPLE:
        other, traits = persona_texts.write_profile(draw), persona_texts.write_personality(draw)
        own = persona_texts.read_personality(traits)
        if persona_texts.read_profile(other)[asked.name] != value and all(own[axis] != poles[axis] for axis in AXES):
            people.append((other, traits))
    path: tuple[Message, ...] = ({"role": "user", "content": draw.choice(asked.questions)},)
    suiting = [
        replies.respond(
            asked.name,
            persona_texts.read_profile(one),
            persona_texts.read_personality(traits),
            replies.FAITHFUL,
            draw,
        )
        for one, traits in people
    ]
    generic = replies.write_reply(asked.name, None, {}, draw)
    return [
        Known(
            Persona(id=f"calibration-{number}-{person + 1}", profile=one, personality=traits),
            path,
            {
                "informed": suiting[person],
                "generic": generic,
                "off_persona": suiting[1 - person],
                "ill_mannered": " ".join([generic] * 4),
                "empty": "Okay.",
            },
        )
        for person, (one, traits) in enumerate(people)
    ]
