"""What the stand-in answers: a deterministic function of the request's id and of the prompt it came with."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tests.standin import wording

BAD_ANSWERS = ("blocked", "empty", "garbage", "truncated")
# Models of these names answer every question so; with `-once` appended, the repair question is answered well.
ODD_ANSWERS = (*BAD_ANSWERS, "safety", "recitation", "prose", "rating9", "other", "thinker")

Finish = Literal["stop", "length", "prompt", "safety", "recitation", "other"]

_FORM = re.compile(r"^Answer with a JSON object: (\{.*\})", re.MULTILINE)
_SENTENCE = re.compile(r"[^.!?]+[.!?]+")
_REPAIR = "\n\nYour previous answer was:\n"
_REPAIRED_BADLY = 0.1  # of the repair questions about answers drawn bad, so many are answered badly again


@dataclass(frozen=True)
class Answer:
    """A text and why it ended; `prompt`, `safety` and `recitation` are blocks."""

    text: str
    finish: Finish = "stop"
    thoughts: int = 0  # tokens of thinking
    kind: str = "ok"  # what the log calls it


def answer(system: str, prompt: str, id: str, model: str = "", bad: float = 0.0) -> Answer:
    """Answer in the role that the prompt asks for.

    `bad` is the share of ids whose answer is blocked, empty, cut off or no JSON.
    """
    draw = random.Random(id)
    repair = _REPAIR in prompt
    kind = ""
    if draw.random() < (bad * _REPAIRED_BADLY if repair else bad):
        kind = draw.choice(BAD_ANSWERS)
    odd = {"badjson": "garbage"}.get(model.removesuffix("-once"), model.removesuffix("-once"))
    if odd in ODD_ANSWERS:
        kind = "" if repair and model.endswith("-once") else odd
    content = play(system, prompt, draw)
    if kind == "rating9":
        content = {"reason": "Off the scale.", "rating": 9}
    text = json.dumps(content, ensure_ascii=False)
    half = text[: len(text) // 2]
    answers = {
        "blocked": Answer("", "prompt", kind="blocked"),
        "safety": Answer("", "safety", kind="blocked"),
        "recitation": Answer("", "recitation", kind="blocked"),
        "other": Answer("", "other", kind="empty"),
        "empty": Answer("", kind="empty"),
        "garbage": Answer(f"{half} and so on, you know what I mean", kind="garbage"),
        "prose": Answer(" ".join(str(value) for value in content.values()), kind="garbage"),
        "truncated": Answer(half, "length", kind="truncated"),
        "thinker": Answer(text, thoughts=32),
    }
    return answers.get(kind, Answer(text, kind=kind or "ok"))


def play(system: str, prompt: str, draw: random.Random) -> dict[str, Any]:
    """The JSON object for the role whose form the prompt names; {"text": …} when it names none."""
    forms = _FORM.findall(prompt)
    form = forms[-1] if forms else ""
    asked = prompt.partition(_REPAIR)[0]
    reason = draw.choice(wording.REASONS)
    plays: dict[str, Callable[[], dict[str, Any]]] = {
        '"texts"': lambda: {"texts": _texts(asked, draw)},
        '"message"': lambda: {"message": _message(system, draw)},
        '"reply"': lambda: {"reply": _reply(draw)},
        '"preferred"': lambda: {"reason": reason, "preferred": draw.choice("AB")},
        '"rating"': lambda: {"reason": reason, "rating": draw.choices((1, 2, 3, 4, 5), (1, 2, 4, 4, 2))[0]},
        '"profile"': lambda: _inferred(asked, draw),
    }
    for field, say in plays.items():
        if field in form:
            return say()
    return {"text": f"{draw.choice(wording.OPENINGS)}. {draw.choice(wording.WISHES)}"}


def _texts(prompt: str, draw: random.Random) -> list[str]:
    found = re.search(r"Write (\d+) new (\w+)", prompt)
    count, kind = (int(found.group(1)), found.group(2)) if found else (5, "profiles")
    return [profile(draw) if kind == "profiles" else personality(draw) for _ in range(count)]


def profile(draw: random.Random) -> str:
    """Eight to ten facts of a daily life, in the third person."""
    he, his, him = draw.choice((("he", "his", "him"), ("she", "her", "her")))
    values = {
        "He": he.title(), "he": he, "His": his.title(), "his": his, "him": him,
        "age": str(draw.randint(19, 84)), "job": draw.choice(wording.JOBS), "town": draw.choice(wording.TOWNS),
        "home": draw.choice(wording.HOMES), "family": draw.choice(wording.FAMILIES), "pet": draw.choice(wording.PETS),
        "dish": draw.choice(wording.DISHES), "drink": draw.choice(wording.DRINKS), "sport": draw.choice(wording.SPORTS),
        "pastime": draw.choice(wording.PASTIMES), "taste": draw.choice(wording.TASTES),
    }  # fmt: skip
    facts = [draw.choice(forms).format(**values) for forms in wording.PROFILE]
    facts = draw.sample(facts, draw.randint(8, 10))
    return " ".join(fact[0].upper() + fact[1:] for fact in facts)


def personality(draw: random.Random) -> str:
    """Eight to ten traits."""
    return " ".join(draw.sample(wording.TRAITS, draw.randint(8, 10)))


def _message(system: str, draw: random.Random) -> str:
    told = _sentences(_between(system, "Who you are:", "How you are:"))
    # A user lets a fact slip: here the last words of a sentence about the persona.
    fact = " ".join(draw.choice(told).rstrip(".!?").split()[-2:]) if told else "nothing much"
    return f"{draw.choice(wording.OPENINGS)}, and I keep thinking of {fact}. {draw.choice(wording.WISHES)}"


def _reply(draw: random.Random) -> str:
    return " ".join(draw.choice(part) for part in (wording.REACTIONS, wording.ADVICE, wording.RETURNS))


def _inferred(prompt: str, draw: random.Random) -> dict[str, str]:
    messages = len(re.findall(r"^\d+\. ", _between(prompt, "The person's messages", "Which sentences"), re.MULTILINE))
    facts = _sentences(_between(prompt, "The person's profile:", "The person's personality:"))
    traits = _sentences(_between(prompt, "The person's personality:", "The person's messages"))
    return {
        "profile": " ".join(facts[:messages]),
        "personality": " ".join(traits[: messages // 2 + draw.randint(0, 1)]),
    }


def _between(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0].strip()


def _sentences(text: str) -> list[str]:
    return [sentence.strip() for sentence in _SENTENCE.findall(text)]
