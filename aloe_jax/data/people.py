"""The people of a split: whose profiles and personalities its conversations have, and what two splits share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aloe_jax.conversation import NOT_RECORDED, Persona


@dataclass(frozen=True)
class People:
    """Digests of the profiles and personalities of a split, and how many conversations have no persona recorded."""

    profiles: frozenset[bytes] = frozenset()
    personalities: frozenset[bytes] = frozenset()
    unknown: int = 0

    @classmethod
    def of(cls, personas: Iterable[Persona | None]) -> People:
        """Of the persona of every conversation; None where its format has none."""
        everyone = list(personas)
        known = [persona for persona in everyone if persona is not None and is_recorded(persona)]
        return cls(
            frozenset(text_digest(persona.profile) for persona in known),
            frozenset(text_digest(persona.personality) for persona in known),
            len(everyone) - len(known),
        )

    @classmethod
    def together(cls, parts: Iterable[People]) -> People:
        """Those of several sources."""
        every = list(parts)
        return cls(
            frozenset().union(*(part.profiles for part in every)),
            frozenset().union(*(part.personalities for part in every)),
            sum(part.unknown for part in every),
        )


def last_held_out(personas: Sequence[Persona], count: int, by_profile: bool) -> tuple[list[Persona], list[Persona]]:
    """(to learn from, the last `count`); `by_profile`: without those to learn from whose profile is held out, too."""
    most = max(0, len(personas) - count)
    rest, held = list(personas[:most]), list(personas[most:])
    if by_profile:
        taken = People.of(held).profiles
        rest = [persona for persona in rest if text_digest(persona.profile) not in taken]
    return rest, held


def is_recorded(persona: Persona) -> bool:
    """Whether a conversation's persona is more than the stand-in that converted data has."""
    return persona.profile != NOT_RECORDED.profile


def text_digest(text: str) -> bytes:
    """8 bytes that equal texts share, whatever their white space: two files may break their lines differently."""
    return hashlib.blake2s(" ".join(text.split()).encode(), digest_size=8).digest()


def shared_people(train: People, validation: People) -> str:
    """What of the people in validation is in training too, in a line for the log."""
    parts = []
    if validation.profiles:
        both = len(train.profiles & validation.profiles)
        parts.append(
            f"{_of(both, len(validation.profiles), 'profile')} in training too"
            + (" (its loss says little of people that training has not met)" if both else "")
        )
        traits = len(train.personalities & validation.personalities)
        parts.append(f"{_of(traits, len(validation.personalities), 'personality')} in training too")
    unknown = train.unknown + validation.unknown
    if unknown:
        what = f"{validation.unknown:,} conversations in validation and {train.unknown:,} in training have no personas"
        parts.append(f"{what}, so who is in both is not known of them")
    return f"people: {'; '.join(parts) or 'not known'}"


def _of(count: int, total: int, what: str) -> str:
    several = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{count:,} of {total:,} {what if total == 1 else several} {'is' if count == 1 else 'are'}"
