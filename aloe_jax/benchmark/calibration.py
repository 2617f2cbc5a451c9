"""Can a judge distinguish good replies from bad ones? It rates a set of known quality before anything else is asked.

For each of some personas there is a conversation with five replies to its last message:

    informed      builds on the persona's life and suits its character     quality 3
    generic       to the point, could have been written to anybody         quality 2
    off_persona   untrue of the persona and against its character          quality 1
    ill_mannered  rude, or far too long                                    quality 1
    empty         says next to nothing                                     quality 1

A judge passes when the rank correlation (Spearman) of its ratings with the known quality reaches a threshold. One
that rates everything alike has no rank correlation and does not pass, nor does one whose answers cannot be read. The
simulated judge knows the simulated world alone, so its set is taken from there.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from aloe_jax.benchmark.agreement import spearman
from aloe_jax.benchmark.judge import Judge, Vote
from aloe_jax.benchmark.results import StoredCalibration
from aloe_jax.benchmark.runner import WorkerPool
from aloe_jax.conversation import Message, Persona
from aloe_jax.coverage import why
from aloe_jax.errors import AloeError
from aloe_jax.llm.world import persona_texts, replies, user_messages
from aloe_jax.llm.world.fact_wording import FACT_KIND
from aloe_jax.llm.world.style import AXES

Kind = Literal["informed", "generic", "off_persona", "ill_mannered", "empty"]
QUALITY: dict[Kind, int] = {"informed": 3, "generic": 2, "off_persona": 1, "ill_mannered": 1, "empty": 1}
LEAST_READ = 0.8  # of the answers that have to be readable


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
    flat = [(QUALITY[kind], rating) for kind in QUALITY for rating in ratings[kind] if rating is not None]
    correlation = spearman(*zip(*flat, strict=True)) if flat else float("nan")
    coverage = len(flat) / len(votes)
    passed = coverage >= LEAST_READ and correlation >= threshold  # not where it is NaN
    missing = Counter(why(vote.reason) for vote in votes.values() if vote.rating is None)
    return StoredCalibration(
        judge=judge.name, ratings=ratings, correlation=correlation, coverage=coverage, passed=passed, missing=missing
    )


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
    return f"has a rank correlation of {calibration.correlation:.2f}, below {threshold:g} (mean ratings: {means})"


def known_replies(scripted: bool, count: int) -> list[Known]:
    """The first `count` of the set, at most all: of the simulated world, or of people as real judges know them."""
    if scripted:
        return [_simulated(number) for number in range(count)]
    return list(_written()[:count])


@cache
def _written() -> tuple[Known, ...]:
    text = resources.files("aloe_jax").joinpath("benchmark/calibration.json").read_text(encoding="utf-8")
    return tuple(
        Known(
            Persona(id=f"calibration-{one['id']}", profile=one["profile"], personality=one["personality"]),
            tuple(
                {"role": "assistant" if number % 2 else "user", "content": message}
                for number, message in enumerate(one["messages"])
            ),
            one["replies"],
        )
        for one in json.loads(text)
    )


def _simulated(number: int) -> Known:
    draw = random.Random(f"calibration {number}")
    profile, personality = persona_texts.write_profile(draw), persona_texts.write_personality(draw)
    facts, poles = persona_texts.read_profile(profile), persona_texts.read_personality(personality)
    said = user_messages.say(facts, poles, (), draw)
    asked = user_messages.hear(said).asked
    assert asked is not None  # every message ends with a question
    untrue = next(value for value in FACT_KIND[asked].values if value != facts[asked])
    generic = replies.write_reply(asked, None, {}, draw)
    return Known(
        Persona(id=f"calibration-{number}", profile=profile, personality=personality),
        ({"role": "user", "content": said},),
        {
            "informed": replies.respond(asked, facts, poles, replies.FAITHFUL, draw),
            "generic": generic,
            "off_persona": replies.write_reply(asked, untrue, {axis: 1 - poles[axis] for axis in AXES}, draw),
            "ill_mannered": " ".join([generic] * 4),
            "empty": "Okay.",
        },
    )
