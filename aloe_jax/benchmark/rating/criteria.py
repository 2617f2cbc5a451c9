"""What people are asked is what the judge is asked: criteria and scale as its prompt states them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources

from aloe_jax.errors import AloeError

_CRITERION = re.compile(r"^[1-9]\. ([^:\n]+): ((?:.+\n)(?: +.+\n)*)", re.MULTILINE)
_LEVEL = re.compile(r"^([1-5]): (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Criteria:
    """`asked`: name and description of each criterion; `scale`: what a rating of 1, 2, 3, 4, 5 says."""

    asked: tuple[tuple[str, str], ...]
    scale: tuple[str, ...]


def criteria() -> Criteria:
    """Read from prompts/judge.md. Raises AloeError where that has no numbered criteria or no scale of five."""
    text = resources.files("aloe_jax").joinpath("prompts/judge.md").read_text(encoding="utf-8")
    asked = tuple((name.strip(), " ".join(words.split())) for name, words in _CRITERION.findall(text))
    levels = {int(level): words.strip() for level, words in _LEVEL.findall(text)}
    if not asked or sorted(levels) != [1, 2, 3, 4, 5]:
        raise AloeError(
            "prompts/judge.md: rating pages take criteria (`1. Name: what it means`) and a scale (`5: what it says`, "
            "down to 1) from it; write them so"
        )
    return Criteria(asked, tuple(levels[level] for level in range(1, 6)))
