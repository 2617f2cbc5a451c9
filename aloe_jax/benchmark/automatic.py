"""What can be counted in replies without any judge: length, variety, facts used and facts let out.

Facts are found in two ways, by who the people are:

`exact`, in the simulated world: every fact has a word of its own, and the world says what a message reveals. A fact is
revealed when the user has said it, mentioned when the reply uses its word. Values that are not the persona's own are
`untrue`.

`overlap`, for everybody else: a fact is a sentence of the profile, its telling words are what is left without the
commonest words and without endings. A fact is revealed when the user's messages so far hold two of its telling words
(or its only one). A reply mentions a revealed fact when it holds one of its telling words, and lets out a fact that is
not revealed when it holds two of them (or the only one) that the user has never said. That misses paraphrases and
counts coincidences: compare models by it, and do not take a single case for proof.

What of the character shows is not counted in either way: it is in the tone.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from aloe_jax.benchmark.dialogue import Dialogue
from aloe_jax.benchmark.results import FactSearch, StoredAutomatic
from aloe_jax.conversation import Persona
from aloe_jax.llm.world import persona_texts, user_messages
from aloe_jax.llm.world.fact_wording import KIND_OF_VALUE
from aloe_jax.llm.world.replies import read_reply
from aloe_jax.speech import sentences

_WORDS = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


@dataclass(frozen=True)
class Facts:
    """What is known by a turn, and what its reply makes of it: sentences of the persona's description.

    `mentioned` had been revealed by then, `leaked` had not; `untrue` are words for facts of other people.
    """

    revealed: tuple[str, ...]
    mentioned: tuple[str, ...]
    leaked: tuple[str, ...]
    untrue: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """One reply: its words, and its facts."""

    words: int
    facts: Facts


def measure(dialogue: Dialogue, way: FactSearch) -> list[Measured]:
    """Every reply of a dialogue."""
    users = [exchange.user for exchange in dialogue.exchanges]
    return [
        Measured(
            len(words_of(exchange.reply.text)),
            facts_of(way, dialogue.persona, users[: turn + 1], exchange.reply.text),
        )
        for turn, exchange in enumerate(dialogue.exchanges)
    ]


def automatic(
    dialogues: Sequence[Dialogue], measured: Sequence[Sequence[Measured]], way: FactSearch, turns: int
) -> StoredAutomatic:
    """The measures of all replies of one model; `measured` is `measure` of each dialogue."""
    texts = [[words_of(exchange.reply.text) for exchange in dialogue.exchanges] for dialogue in dialogues]
    every = list(itertools.chain.from_iterable(texts))
    flat = list(itertools.chain.from_iterable(measured))
    columns = [[row[turn] for row in measured if turn < len(row)] for turn in range(turns)]
    return StoredAutomatic(
        way=way,
        words=_mean(one.words for one in flat),
        distinct_1=_distinct(every, 1),
        distinct_2=_distinct(every, 2),
        distinct_2_within=_mean(_distinct(replies, 2) for replies in texts if replies),
        mentioned=_mentioned(flat),
        leaked=_mean(bool(one.facts.leaked) for one in flat),
        untrue=_mean(bool(one.facts.untrue) for one in flat) if way == "exact" else math.nan,
        words_by_turn=[_mean(one.words for one in column) for column in columns],
        mentioned_by_turn=[_mentioned(column) for column in columns],
        leaked_by_turn=[_mean(bool(one.facts.leaked) for one in column) for column in columns],
    )


def _mentioned(measured: Iterable[Measured]) -> float:
    return _mean(bool(one.facts.mentioned) for one in measured if one.facts.revealed)


def _mean(values: Iterable[float]) -> float:
    some = [value for value in map(float, values) if not math.isnan(value)]
    return float(np.mean(some)) if some else math.nan


def _distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    grams = [tuple(words[i : i + n]) for words in texts for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def words_of(text: str) -> list[str]:
    """The words of a text in lower case: what is between spaces and punctuation."""
    return [word.replace("\u2019", "'").lower() for word in _WORDS.findall(text)]


# ---------------------------------------------------------------- facts


def facts_of(way: FactSearch, persona: Persona, messages: Sequence[str], reply: str) -> Facts:
    """Facts by the user's `messages` up to and including the one that `reply` answers."""
    return _exact(persona, messages, reply) if way == "exact" else _overlap(persona, messages, reply)


def _exact(persona: Persona, messages: Sequence[str], reply: str) -> Facts:
    own = persona_texts.read_profile(persona.profile)
    sentence_of = persona_texts.profile_sentences(persona.profile)
    facts, shown = user_messages.revealed(messages)
    known = [slot for slot, value in own.items() if facts.get(slot) == value]
    traits = persona_texts.personality_sentences(persona.personality)
    poles = persona_texts.read_personality(persona.personality)
    signs = [traits[axis] for axis, pole in poles.items() if shown.get(axis) == pole]
    used = {KIND_OF_VALUE[value]: value for value in sorted(read_reply(reply).values)}
    said = [slot for slot, value in own.items() if value in read_reply(reply).values]
    return Facts(
        revealed=(*(sentence_of[slot] for slot in known), *signs),
        mentioned=tuple(sentence_of[slot] for slot in said if slot in known),
        leaked=tuple(sentence_of[slot] for slot in said if slot not in known),
        untrue=tuple(value for slot, value in used.items() if value not in own.values()),
    )


def _overlap(persona: Persona, messages: Sequence[str], reply: str) -> Facts:
    facts = _telling(persona.profile)
    said = frozenset[str]().union(*(_stems(message) for message in messages))
    answer = _stems(reply)
    revealed = [fact for fact, words in facts.items() if len(words & said) >= min(2, len(words))]
    return Facts(
        revealed=tuple(revealed),
        mentioned=tuple(fact for fact in revealed if facts[fact] & answer),
        leaked=tuple(
            fact
            for fact, words in facts.items()
            if fact not in revealed and len((words & answer) - said) >= min(2, len(words))
        ),
    )


@lru_cache(maxsize=4096)
def _telling(profile: str) -> Mapping[str, frozenset[str]]:
    """The telling words of every sentence of a profile that has any."""
    found = {sentence: _stems(sentence) for sentence in sentences(profile)}
    return {sentence: words for sentence, words in found.items() if words}


_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?")
_COMMON_WORDS = """
a about above actually after again against ago all almost alone along already also although always am among an and
another any anyone anything are around as at away back be because become been before behind being below best better
between big both bring but by call came can cannot come could day days did different do does doing done down during
each early easy either else end enough especially even ever every everyone everything favorite favourite feel feels
few find first for free from full fun gave get gets getting give gives go goes going gone good got great had has
have having he help her here hers herself him himself his home hour hours how however i idea if in into is it its
itself just keep keeps kind knew know known knows last late later least left less let life like liked likes little
live lives long look looking lot lots love loves made main make makes making man many may maybe me mean might mind
moment month months more morning most mostly much must my myself near need needs never new next nice night no none
nor not nothing now of off often old on once one ones only onto or other others our out over own part people perhaps
person place plan possible put quite rather real really right said same saw say says see seem seems seen several
shall she should show side simply since small so some someone something sometimes soon sort start still such sure
take takes taking talk tell than thank that the their them then there these they thing things think this those
though through time times to today together told tomorrow too took toward try trying turn twice two under until up
upon us use used uses using usually very want wants was way ways we week weekend weeks well went were what when
where whether which while who whole whose why will wish with within without woman word work works world would year
years yes yet you young your yours yourself
"""
_COMMON = frozenset(_COMMON_WORDS.split())


@lru_cache(maxsize=65536)
def _stems(text: str) -> frozenset[str]:
    words = (word.replace("\u2019", "'").lower().removesuffix("'s") for word in _WORD.findall(text))
    return frozenset(_stem(word) for word in words if len(word) > 2 and word not in _COMMON and "'" not in word)


def _stem(word: str) -> str:
    """A word without its ending, so that "baking", "bakes" and "baked" are one. Crude, and alike for all texts."""
    for ending, rest in (("ies", "y"), ("ied", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""), ("e", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word.removesuffix(ending) + rest
            break
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiou" else word
