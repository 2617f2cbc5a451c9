"""How much of what a run was to have is there, and why the rest is missing: the last line and the exit status."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

INCOMPLETE = 4  # exit status of a run that is through and lacks something
NOTHING = 1  # and of one that has nothing

_ANSWER = re.compile(r"""(?s): (?:'.*'|".*")$""")  # of a role, quoted at the end of a message
_PASSING = re.compile(r", \d+ tokens did not suffice|, character \d+")  # what differs from one call to the next
_ROLE = re.compile(r"(?:^|: )(\w+) \([^()]*\): ")
_ADVICE = re.compile(r"raise (\S+)")
_CONTEXT = "tokens of context are needed"
_SIGNS = {  # in a message -> what it counts as
    "blocked reply": "blocked by a safety filter",
    "empty reply": "empty",
    "unusable answer twice": "unreadable",
    "unreadable reply": "unreadable",
    _CONTEXT: "longer than the context (raise sampling.max_length, as far as the model goes)",
}


@dataclass
class Coverage:
    """Of `wanted` things (`what`: "ratings"), those that are missing, by reason."""

    what: str
    wanted: int
    missing: Counter[str] = field(default_factory=Counter)
    for_good: int = 0  # so many of the missing ones are not asked for again

    @property
    def there(self) -> int:
        """How many are there."""
        return self.wanted - self.missing.total()

    def line(self) -> str:
        """Such as "coverage 93.5%: 13 of 200 ratings are missing: 9 truncated (raise …), 4 blocked by a filter"."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.missing.most_common())
        lost = self.missing.total()
        verb = "is" if lost == 1 else "are"
        of = f"{lost:,} of {self.wanted:,} {self.what} {verb} missing"
        return f"coverage {percent(self.there, self.wanted)}: {of}: {reasons}"


def percent(part: int, whole: int) -> str:
    """A share that is 0.0% or 100% only where it is exactly so."""
    if part in (0, whole):
        return "100%" if part else "0%"
    return f"{min(99.9, max(0.1, math.floor(1000 * part / whole) / 10)):.1f}%"


def last_line(parts: Sequence[Coverage]) -> tuple[str, int]:
    """The last line on what is missing, "" where nothing is, and the exit status."""
    lacking = [part for part in parts if part.missing.total()]
    if not lacking:
        return "", 0
    line = "; ".join(part.line() for part in lacking)
    lost, for_good = (sum(numbers) for numbers in zip(*((p.missing.total(), p.for_good) for p in lacking), strict=True))
    if for_good < lost:
        them = "them" if not for_good else f"{lost - for_good:,} of them"
        line += f"; the same command asks for {them} again"
    nothing = any(not part.there for part in lacking)
    return line, NOTHING if nothing else INCOMPLETE


# ---------------------------------------------------------------- reasons


def whole_reason(message: str) -> str:
    """A role's error without the answer at fault and without what differs from one call to the next."""
    return _PASSING.sub("", _ANSWER.sub("", " ".join(message.split())))


def why(message: str) -> str:
    """A role's error in words that a person counts by: "truncated (raise roles.judge.max_output_tokens)"."""
    if "truncated reply" in message:
        advice = _ADVICE.search(message)
        return f"truncated (raise {advice[1]})" if advice else "truncated"
    return next((words for sign, words in _SIGNS.items() if sign in message), f"because {whole_reason(message)}")


def who_and_why(message: str) -> str:
    """The same with the role in front, where the message names one."""
    role = _ROLE.search(message)
    return f"{role[1]} {why(message)}" if role else why(message)


def asked_again(message: str) -> bool:
    """Whether another run may mend it without another setting."""
    return _CONTEXT not in message
