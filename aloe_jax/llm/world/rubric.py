"""The fixed rubric by which replies are rated in the simulated world. Deterministic; a simulation of a judge.

For a reply to a message that asks about a fact:

    score = 0                                           off the topic, or unreadable
    score = 1 + 0.5 + 1.5 f + 0.5 s - c                 otherwise
    rating = floor(score + 0.5), kept within 1..5

f = 1 if the persona's own value of the fact asked about is used, -1 if any value that is not the persona's own is
asserted (which outweighs), else 0. A true value counts whether or not the user has stated it yet: who knows the
whole persona may use it, and who guesses is wrong most of the time.
s = number of style axes on which the reply expresses the persona's pole, minus the number on which it expresses
the other: -4..4; an axis expressed both ways counts nothing.
c = 1 for more than three sentences or more than 40 words, else 0.

A generic reply on the topic scores 1.5, rated 2; one that honours all four axes and uses the fact scores 5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from aloe_jax.llm.world.persona_texts import Facts, Poles
from aloe_jax.llm.world.replies import Read, read_reply
from aloe_jax.llm.world.user_messages import hear

MOST_SENTENCES = 3
MOST_WORDS = 40
GENERIC = 1.5  # the score of a reply on the topic that could have been written to anybody


def on_topic(asked: str | None, read: Read) -> bool:
    """Whether a reply is about the kind of fact asked about; about any of them, where nothing readable was asked."""
    return read.topic is not None and asked in (None, read.topic)


def assess(asked: str | None, facts: Facts, poles: Poles, reply: str) -> tuple[float, str]:
    """The unrounded score of a reply and the reason in words. Takes any text; never raises."""
    read = read_reply(reply)
    if read.topic is None or not on_topic(asked, read):
        return 0.0, "It does not answer what was asked."
    own = set(facts.values())
    wrong = read.values - own
    f = -1 if wrong else int(facts.get(read.topic) in read.values)
    fits = sum(poles.get(axis) == pole for axis, pole in read.poles)
    clashes = sum(axis in poles and poles[axis] != pole for axis, pole in read.poles)
    long = read.sentences > MOST_SENTENCES or read.words > MOST_WORDS
    score = GENERIC + 1.5 * f + 0.5 * (fits - clashes) - long
    fact = {1: "uses a fact of the profile", 0: "uses no fact", -1: "asserts something untrue"}[f]
    reason = f"On the topic, {fact}, fits {fits} and clashes with {clashes} of the traits"
    return score, reason + (", too long." if long else ".")


def rating(score: float) -> int:
    """From score to rating, 1 to 5."""
    return max(1, min(5, math.floor(score + 0.5)))


def mean_rating(dialogue: Sequence[Mapping[str, str]], facts: Facts, poles: Poles) -> float:
    """The mean rating of the assistant's messages in a dialogue, each an answer to the one before it; 0 for none."""
    ratings = [
        rating(assess(hear(asked["content"]).asked, facts, poles, reply["content"])[0])
        for asked, reply in pairwise(dialogue)
        if reply["role"] == "assistant"
    ]
    return sum(ratings) / len(ratings) if ratings else 0.0
