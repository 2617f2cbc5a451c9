"""The user of the simulated world: writes messages that reveal a persona bit by bit, and reads them back."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from aloe_jax.llm.world.fact_wording import ASKED, FACT_KIND, FACT_KINDS, OTHERS
from aloe_jax.llm.world.persona_texts import Facts, Poles, sentences, words
from aloe_jax.llm.world.style import AXES

SIGN_CHANCE = 0.4  # that a message shows one random axis of the personality
STATE_CHANCE = 0.2  # that a message states a new fact for which the reply before did not ask
OPEN_CHANCE = 0.25  # that a reply that suits the user makes him add one thing more
OTHER_CHANCE = 0.2  # that it states a fact of somebody else
SAME_CHANCE = 0.3  # that it asks about the very fact it has just stated, if that is one to ask about
PROMPTED_CHANCE = 0.6  # the same, where the fact was stated because the reply had asked for it


@dataclass(frozen=True)
class Heard:
    """What one message says: facts of the user, signs of poles, and the kind of fact it asks about."""

    facts: tuple[tuple[str, str], ...]
    signs: tuple[tuple[str, int], ...]
    asked: str | None


@dataclass(frozen=True)
class Reaction:
    """How the user takes a reply, which decides how much he says next.

    `inquiry` is the kind of fact for which the reply has asked, `again` the question that the user has to repeat.
    """

    mood: Literal["curt", "at ease", "open"]
    inquiry: str | None = None
    again: str | None = None


AT_EASE = Reaction("at ease")  # as at the start of a conversation


def _meanings() -> dict[str, tuple[str, str, str | int]]:
    """Every sentence a user can say, as words -> (what it is, kind of fact or axis, value or pole)."""
    said: dict[str, tuple[str, str, str | int]] = {}
    for kind in FACT_KINDS:
        for reveal in kind.reveal:
            for value in kind.values:
                said[" ".join(words(reveal.format(value)))] = ("fact", kind.name, value)
        for question in kind.questions:
            said[" ".join(words(question))] = ("question", kind.name, "")
    for axis, poles in AXES.items():
        for pole in (0, 1):
            for sign in poles[pole].signs:
                said[" ".join(words(sign))] = ("sign", axis, pole)
    return said


_SAID = _meanings()


def question_of(message: str) -> str | None:
    """The sentence of a message that asks for advice, the last if there are several; None for none."""
    asking = [part for part in sentences(message) if _SAID.get(" ".join(words(part)), ("",))[0] == "question"]
    return asking[-1] if asking else None


@lru_cache(maxsize=65536)
def hear(message: str) -> Heard:
    """Read one user message. Sentences that mean nothing here are passed over; never raises."""
    facts, signs, asked = [], [], None
    for sentence in sentences(message):
        kind, name, what = _SAID.get(" ".join(words(sentence)), ("", "", ""))
        if kind == "fact":
            facts.append((name, str(what)))
        elif kind == "sign":
            signs.append((name, int(what)))
        elif kind == "question":
            asked = name
    return Heard(tuple(facts), tuple(signs), asked)


def revealed(messages: Iterable[str]) -> tuple[Facts, Poles]:
    """What a careful stranger knows after these user messages: (kind -> value, axis -> pole)."""
    facts: dict[str, str] = {}
    poles: dict[str, int] = {}
    for message in messages:
        heard = hear(message)
        facts.update(heard.facts)
        poles.update(heard.signs)
    return facts, poles


def say(facts: Facts, poles: Poles, earlier: Sequence[str], draw: random.Random, reaction: Reaction = AT_EASE) -> str:
    """The user's next message after his `earlier` ones, in `reaction` to the reply to the last of them.

    The first message states a fact. A later one, at ease, states one not yet stated with STATE_CHANCE only: people say
    little of themselves unless they are asked. It shows an axis of his personality with SIGN_CHANCE, states a fact of
    somebody else with OTHER_CHANCE, and asks: with SAME_CHANCE about the first fact just stated, else about one drawn
    uniformly from ASKED, stated or not. So the chance that the asked fact is known grows over the turns.

    Asked for a fact not yet stated, it states that one first and shows an axis not yet shown. Asked for one already
    stated, it states it again in place of a new one. Either way it asks for advice on that very fact with
    PROMPTED_CHANCE.

    Opened up and not asked for a new fact, it adds with OPEN_CHANCE one thing not yet revealed, a fact or a sign.
    Opened up, it talks of nobody else. Curt, it asks and states nothing.
    """
    if reaction.mood == "curt":
        return reaction.again or draw.choice(draw.choice(ASKED).questions)
    stated, shown = revealed(earlier)
    unstated = [kind.name for kind in FACT_KINDS if kind.name in facts and kind.name not in stated]
    inquiry = reaction.inquiry if reaction.inquiry in facts else None
    prompted = inquiry is not None and inquiry in unstated  # asked for what he has not stated yet
    stating = [] if inquiry is None else [inquiry]
    if (inquiry is None or prompted) and (not earlier or draw.random() < STATE_CHANCE):
        others = [name for name in unstated if name != inquiry]
        stating += [draw.choice(others)] if others else []
    hidden = [axis for axis in sorted(poles) if axis not in shown]
    if prompted and hidden:
        axes = [draw.choice(hidden)]
    else:
        axes = [draw.choice(sorted(poles))] if poles and draw.random() < SIGN_CHANCE else []
    if reaction.mood == "open" and not prompted and draw.random() < OPEN_CHANCE:
        more = [name for name in unstated if name not in stating]
        more += [axis for axis in hidden if axis not in axes]
        added = [draw.choice(more)] if more else []
        axes += [name for name in added if name in AXES]
        stating += [name for name in added if name in FACT_KIND]
    signs = [draw.choice(AXES[axis][poles[axis]].signs) for axis in axes]
    statements = [draw.choice(FACT_KIND[name].reveal).format(facts[name]) for name in stating]
    asked = draw.choice(ASKED)
    chance = SAME_CHANCE if inquiry is None else PROMPTED_CHANCE
    if stating and FACT_KIND[stating[0]] in ASKED and draw.random() < chance:
        asked = FACT_KIND[stating[0]]
    if draw.random() < OTHER_CHANCE and reaction.mood != "open":
        kind = draw.choice(FACT_KINDS)
        value = draw.choice([value for value in kind.values if value != facts.get(kind.name)])
        statements.append(f"{draw.choice(OTHERS)} {kind.other.format(value)}.")
    draw.shuffle(statements)
    return " ".join([*signs, *statements, draw.choice(asked.questions)])


def infer(
    known: tuple[Facts, Poles], profile: Facts, personality: Poles, miss: float, draw: random.Random
) -> tuple[list[str], list[str]]:
    """Which kinds of fact and axes of the persona an inducer notes; each is overlooked with probability `miss`."""
    facts, poles = known
    kinds = [name for name in profile if facts.get(name) == profile[name] and draw.random() >= miss]
    axes = [axis for axis in personality if poles.get(axis) == personality[axis] and draw.random() >= miss]
    return kinds, axes
