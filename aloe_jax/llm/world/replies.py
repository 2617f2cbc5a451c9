"""Replies of the simulated world: opener (warmth), suggestion (pace, topic, company), closer (humour or a question)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from aloe_jax.llm.world.fact_wording import ASKED, FACT_KIND, FACT_KINDS, KIND_OF_VALUE
from aloe_jax.llm.world.persona_texts import Facts, Poles, sentences, words
from aloe_jax.llm.world.style import AXES, NEUTRAL_LEADS, NEUTRAL_OPENERS

_TOPIC = {word: kind.name for kind in FACT_KINDS for word in kind.topics}
_PHRASES = tuple(
    (axis, pole, f" {' '.join(words(phrase))} ")
    for axis, poles in AXES.items()
    for pole in (0, 1)
    for phrase in poles[pole].replies
)


_INQUIRY = {" ".join(words(text)): kind.name for kind in FACT_KINDS for text in kind.inquiries}


@dataclass(frozen=True)
class Read:
    """What a reply says: the first topic it names, the values it uses, the poles it expresses.

    `inquiry` is the kind of fact it asks the user for, the last if there are several; None for none.
    """

    topic: str | None
    values: frozenset[str]
    poles: frozenset[tuple[str, int]]
    words: int
    sentences: int
    inquiry: str | None


@lru_cache(maxsize=65536)
def read_reply(text: str) -> Read:
    """Read a reply by looking for known words and phrases. Any text at all may be given."""
    said = words(text)
    line = f" {' '.join(said)} "
    parts = sentences(text)
    inquiries = [_INQUIRY[line] for line in (" ".join(words(part)) for part in parts) if line in _INQUIRY]
    return Read(
        topic=next((_TOPIC[word] for word in said if word in _TOPIC), None),
        values=frozenset(word for word in said if word in KIND_OF_VALUE),
        poles=frozenset((axis, pole) for axis, pole, phrase in _PHRASES if phrase in line),
        words=len(said),
        sentences=len(parts),
        inquiry=inquiries[-1] if inquiries else None,
    )


def write_reply(topic: str, value: str | None, poles: Poles, draw: random.Random, inquiry: str | None = None) -> str:
    """A reply on `topic` that uses `value` (None: a generic offer) and expresses `poles`.

    With `inquiry` it closes with a question about that kind of fact, and leaves out humour, whose position that is.
    """

    def phrase(axis: str, neutral: tuple[str, ...]) -> str:
        return draw.choice(AXES[axis][poles[axis]].replies if axis in poles else neutral)

    with_value, generic = draw.choice(FACT_KIND[topic].offers)
    offer = generic if value is None else with_value.format(value)
    suggestion = f"{phrase('pace', NEUTRAL_LEADS)} {offer} {phrase('company', ('',))}".strip()
    parts = [
        phrase("warmth", NEUTRAL_OPENERS),
        f"{suggestion[0].upper()}{suggestion[1:]}.",
        phrase("humour", ("",)) if inquiry is None else draw.choice(FACT_KIND[inquiry].inquiries),
    ]
    return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class Habits:
    """Chances that make a responder imperfect.

    `honour`, `contradict`: a known axis is met with the known or the other pole, else with neither.
    `stray`: an unknown axis is met with a random pole. `use`: the known fact asked about is used.
    `invent`: where no fact is used, a random value of the topic is asserted. `drift`: a random topic.
    `ask`: a reply without humour closes with a question about a fact that the responder does not know.
    """

    honour: float
    contradict: float
    stray: float
    use: float
    invent: float
    drift: float
    ask: float


# Who has no hint asks without knowing what the user has stated already; who knows the whole persona has nothing to ask.
PLAIN = Habits(honour=0.0, contradict=0.0, stray=0.4, use=0.0, invent=0.25, drift=0.03, ask=0.2)
HINTED = Habits(honour=0.7, contradict=0.06, stray=0.15, use=0.85, invent=0.04, drift=0.03, ask=0.4)
FAITHFUL = Habits(honour=1.0, contradict=0.0, stray=0.0, use=1.0, invent=0.0, drift=0.0, ask=0.25)


def respond(asked: str | None, facts: Facts, poles: Poles, habits: Habits, draw: random.Random) -> str:
    """Reply to a question about the kind `asked`, knowing `facts` and `poles`, with these habits."""
    topic = asked or draw.choice(ASKED).name
    if draw.random() < habits.drift:
        topic = draw.choice(ASKED).name
    value = facts.get(topic) if draw.random() < habits.use else None
    if value is None and draw.random() < habits.invent:
        value = draw.choice(FACT_KIND[topic].values)
    expressed: dict[str, int] = {}
    for axis in AXES:
        chance = draw.random()
        if axis not in poles:
            if chance < habits.stray:
                expressed[axis] = draw.randrange(2)
        elif chance < habits.honour:
            expressed[axis] = poles[axis]
        elif chance < habits.honour + habits.contradict:
            expressed[axis] = 1 - poles[axis]
    unknown = [kind.name for kind in FACT_KINDS if kind.name not in facts]
    asks = draw.random() < habits.ask and "humour" not in expressed and unknown
    return write_reply(topic, value, expressed, draw, draw.choice(unknown) if asks else None)
