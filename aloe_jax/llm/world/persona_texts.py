"""Personas of the simulated world: written from a seed, and read back. A simulation."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from aloe_jax.llm.world.fact_wording import FACT_KINDS, KIND_OF_VALUE
from aloe_jax.llm.world.style import AXES, FLAVOURS

_PRONOUNS = (
    {"She": "She", "she": "she", "Her": "Her", "her": "her", "person": "woman"},
    {"She": "He", "she": "he", "Her": "His", "her": "his", "person": "man"},
)
_AGES = (23, 27, 31, 36, 42, 48, 55, 61, 67, 74)
_SENTENCE = re.compile(r"[^.!?]*[^.!?\s][^.!?]*[.!?]*")
_WORD = re.compile(r"[a-z]+")

Facts = Mapping[str, str]  # kind of fact -> value
Poles = Mapping[str, int]  # axis -> 0 or 1, the index of the pole in AXES


def sentences(text: str) -> list[str]:
    """Split at full stops, question and exclamation marks, which stay with their sentence."""
    return [sentence.strip() for sentence in _SENTENCE.findall(text)]


def words(text: str) -> list[str]:
    """The lower-case words of a text, without punctuation."""
    return _WORD.findall(text.lower())


_POLE_OF_TRAIT = {
    " ".join(words(trait)): (axis, pole)
    for axis, poles in AXES.items()
    for pole in (0, 1)
    for trait in poles[pole].traits
}


def write_profile(draw: random.Random) -> str:
    """A profile: age, then one sentence for each of the ten kinds of fact, in random order."""
    form = draw.choice(_PRONOUNS)
    stated = [draw.choice(kind.profile).format(draw.choice(kind.values), **form) for kind in FACT_KINDS]
    draw.shuffle(stated)
    return " ".join([f"A {form['person']} of {draw.choice(_AGES)}.", *stated])


def write_personality(draw: random.Random) -> str:
    """A personality: a trait for one pole of each axis and four to six flavours, in random order."""
    traits = [draw.choice(draw.choice(poles).traits) for poles in AXES.values()]
    traits += draw.sample(FLAVOURS, draw.randint(4, 6))
    draw.shuffle(traits)
    return " ".join(traits)


def write_variant(text: str, draw: random.Random) -> str:
    """A near-copy of a persona text, as writers are apt to produce: the same sentences in another order."""
    parts = sentences(text)
    draw.shuffle(parts)
    return " ".join(parts)


@lru_cache(maxsize=8192)
def profile_sentences(text: str) -> Mapping[str, str]:
    """The sentence of a profile that states each fact, by kind. Sentences that state none are passed over."""
    stated: dict[str, str] = {}
    for sentence in sentences(text):
        for word in words(sentence):
            if word in KIND_OF_VALUE:
                stated.setdefault(KIND_OF_VALUE[word], sentence)
    return MappingProxyType(stated)


@lru_cache(maxsize=8192)
def read_profile(text: str) -> Facts:
    """The facts of a profile or of a part of one: kind -> value. Never raises."""
    facts: dict[str, str] = {}
    for word in words(text):
        if word in KIND_OF_VALUE:
            facts.setdefault(KIND_OF_VALUE[word], word)
    return MappingProxyType(facts)


@lru_cache(maxsize=8192)
def personality_sentences(text: str) -> Mapping[str, str]:
    """The sentence of a personality that states each pole, by axis."""
    stated: dict[str, str] = {}
    for sentence in sentences(text):
        found = _POLE_OF_TRAIT.get(" ".join(words(sentence)))
        if found:
            stated.setdefault(found[0], sentence)
    return MappingProxyType(stated)


@lru_cache(maxsize=8192)
def read_personality(text: str) -> Poles:
    """The poles of a personality or of a part of one: axis -> 0 or 1. Never raises."""
    stated = personality_sentences(text)
    return MappingProxyType({axis: _POLE_OF_TRAIT[" ".join(words(stated[axis]))][1] for axis in stated})


def seed_profiles() -> list[str]:
    """The profiles from which a pool starts."""
    return [write_profile(random.Random(f"seed profile {number}")) for number in range(10)]


def seed_personalities() -> list[str]:
    """The personalities from which a pool starts."""
    return [write_personality(random.Random(f"seed personality {number}")) for number in range(10)]
