"""Which cases of a benchmark share a profile or a personality: it decides what inference may take for independent.

The design is read from the personas themselves, never from a setting. Cases of the same person (profile and
personality alike) are one unit. A part, the profiles or the personalities, counts as shared when it has fewer levels
than there are people. How much one or two levels vary cannot be known: parts, and people, of whom there are fewer than
`FEWEST` are taken as given, and the numbers are about them alone. Where both parts are shared, one with fewer than
`FEWEST_CROSSED` levels is given too: whether it varies at all could not be decided, and tests would reject up to 8%.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aloe_jax.conversation import Persona
from aloe_jax.errors import AloeError

Array = NDArray[np.float64]
Numbers = NDArray[np.intp]

FEWEST = 3  # levels of a part whose variance is estimated
FEWEST_CROSSED = 5  # the same, where the other part is shared as well

DesignKind = Literal["distinct", "crossed", "shared profiles", "shared personalities", "one person"]


@dataclass(frozen=True)
class CaseDesign:
    """Who the cases are of, in numbers from 0: the person of every case, profile and personality of every person.

    Raises AloeError where people differ in number between the three, and where a number below the largest is not there.
    """

    person: tuple[int, ...]  # [N cases]
    profile: tuple[int, ...]  # [U people]
    personality: tuple[int, ...]  # [U people]

    def __post_init__(self) -> None:
        for name, numbers in (("person", self.person), ("profile", self.profile), ("personality", self.personality)):
            if set(numbers) != set(range(len(set(numbers)))):
                raise AloeError(f"design: {name} has to be numbered from 0 without gaps, found {sorted(set(numbers))}")
        if not len(set(self.person)) == len(self.profile) == len(self.personality):
            raise AloeError(
                f"design: has cases of {len(set(self.person))} people, profiles of {len(self.profile)} and "
                f"personalities of {len(self.personality)}; give one of each for every person"
            )

    @classmethod
    def distinct(cls, cases: int) -> CaseDesign:
        """Of cases of which nothing is known to be shared."""
        own = tuple(range(cases))
        return cls(own, own, own)

    @classmethod
    def of(cls, personas: Sequence[Persona | None]) -> CaseDesign:
        """Of the personas of the cases; None stands for a person who shares nothing with the others."""
        profiles: list[Hashable] = [number if one is None else one.profile for number, one in enumerate(personas)]
        personalities = [number if one is None else one.personality for number, one in enumerate(personas)]
        return cls._built(profiles, personalities)

    @classmethod
    def _built(cls, profiles: Sequence[Hashable], personalities: Sequence[Hashable]) -> CaseDesign:
        """From profile and personality of every case."""
        pairs = list(zip(profiles, personalities, strict=True))
        people = list(dict.fromkeys(pairs))
        if len(people) < min(FEWEST, len(pairs)):  # given, like a part with so few levels
            return cls(tuple(range(len(pairs))), _numbered(profiles), _numbered(personalities))
        return cls(_numbered(pairs), _numbered([one for one, _ in people]), _numbered([one for _, one in people]))

    @cached_property
    def kind(self) -> DesignKind:
        """What the cases share."""
        people = len(self.profile)
        if people == 1:
            return "one person"
        profiles, personalities = self._estimated
        if profiles and personalities:
            return "crossed"
        return "shared profiles" if profiles else "shared personalities" if personalities else "distinct"

    @cached_property
    def _estimated(self) -> tuple[bool, bool]:
        """Whether profiles are shared and their variance is estimated, and the same of personalities."""
        levels = self.profiles, self.personalities
        first, second = (FEWEST <= count < self.people for count in levels)
        if first and second:
            first, second = (count >= FEWEST_CROSSED for count in levels)
        return first, second

    @property
    def people(self) -> int:
        """How many people there are: what resampling draws and leaves out."""
        return len(self.profile)

    @property
    def profiles(self) -> int:
        """How many profiles."""
        return len(set(self.profile))

    @property
    def personalities(self) -> int:
        """How many personalities."""
        return len(set(self.personality))

    def subset(self, cases: Sequence[int]) -> CaseDesign:
        """The design of some of the cases, in the given order."""
        own = [self.person[case] for case in cases]
        return self._built([self.profile[one] for one in own], [self.personality[one] for one in own])

    def by_case(self, weights: Array) -> Array:
        """Weights of people [S, U] as weights of their cases [S, N]."""
        if self.person == tuple(range(self.people)):
            return weights
        return weights[:, list(self.person)]

    def shared_parts(self) -> list[Numbers]:
        """Level numbers [U] of the parts that are shared: none, one, or profiles and personalities."""
        profiles = [self.profile] if self.kind in ("crossed", "shared profiles") else []
        personalities = [self.personality] if self.kind in ("crossed", "shared personalities") else []
        return [np.array(part) for part in (*profiles, *personalities)]

    def fixed_parts(self) -> list[str]:
        """What all people share, in words: parts with so few levels that the numbers are about those alone."""
        if self.people < 2:
            return []
        found = []
        for levels, estimated, name, plural in (
            (self.profiles, self._estimated[0], "profile", "profiles"),
            (self.personalities, self._estimated[1], "personality", "personalities"),
        ):
            if levels < self.people and not estimated:
                found.append(f"the one {name}" if levels == 1 else f"the {levels} {plural}")
        return found

    def described(self) -> str:
        """Who the people are, in words."""
        people, profiles, personalities = self.people, self.profiles, self.personalities
        if len(set(zip(self.profile, self.personality, strict=True))) == 1:
            return "one person"
        if self.kind == "distinct" and profiles == personalities == people:
            return f"{people:,} people, each with a profile and a personality of their own"
        combined = f"{profiles:,} {_many('profile', profiles)} and {personalities:,} "
        combined += "personality" if personalities == 1 else "personalities"
        if min(profiles, personalities) > 1 and profiles * personalities == people:
            return f"{people:,} people, every combination of {combined}"
        return f"{people:,} people with {combined} among them"


def design_of(cases: int, design: CaseDesign | None) -> CaseDesign:
    """`design`, or without one that of so many cases of distinct people.

    Raises AloeError where it is of another number of cases.
    """
    if design is None:
        return CaseDesign.distinct(cases)
    if len(design.person) != cases:
        raise AloeError(
            f"design: is of {len(design.person)} cases, the ratings are of {cases}; give that of the same cases"
        )
    return design


def spread_cases(design: CaseDesign, count: int) -> list[int]:
    """`count` cases, in their order, such that no profile has many more than another, and no personality.

    One after the other is taken that has the profile, and among those the personality, with the fewest cases so far.
    """
    person = np.array(design.person)
    profile, personality = np.array(design.profile)[person], np.array(design.personality)[person]
    if count >= len(person):
        return list(range(len(person)))
    profiles, personalities = np.zeros(design.profiles, int), np.zeros(design.personalities, int)
    free = np.ones(len(person), bool)
    for _ in range(count):
        order = profiles[profile] * (count + 1) + personalities[personality]
        case = int(np.where(free, order, np.iinfo(order.dtype).max).argmin())
        free[case] = False
        profiles[profile[case]] += 1
        personalities[personality[case]] += 1
    return np.flatnonzero(~free).tolist()


def _many(one: str, count: int) -> str:
    return one if count == 1 else f"{one}s"


def _numbered(values: Sequence[Hashable]) -> tuple[int, ...]:
    """Equal values as equal numbers, in the order in which they first come."""
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return tuple(numbers[value] for value in values)
