"""Finding the answer in what a model wrote: one JSON object among thoughts, prose, fences and drafts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

from aloe_jax.conversation import first_fault

_MOST_BROKEN = 1000  # objects that begin and are none, before the text is given up
_MOST_TRIED = 1000  # objects, from the last on, that are checked against the form
_DEEPEST = 20  # levels of objects around an answer

_WORDS = (
    r"think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|analysis|inner[_ ]?monologue|seed:think|"
    r"chain[_ ]?of[_ ]?thought|cot"
)
# <think>, < thinking id="1">, [THINK], ◁think▷, <|thinking|>, &lt;think&gt;; and the markers of single families.
_OPENING = (
    rf"(?:<|&lt;|◁)\|?\s*(?:{_WORDS})(?:\s[^<>]{{0,100}})?\s*\|?(?:>|&gt;|▷)|\[\s*think(?:ing)?\s*\]|"
    r"<\|begin_of_thought\|>|<\|START_THINKING\|>|<unused94>|<\|channel\|>\s*(?:analysis|commentary)\b[^<]{0,100}"
    r"(?:<\|constrain\|>[^<]{0,100})?<\|message\|>|\A\s*analysis(?=[A-Z])"
)
_CLOSING = (
    rf"(?:<|&lt;|◁)\s*(?:\|\s*)?/\s*(?:{_WORDS})\s*\|?(?:>|&gt;|▷)|\[\s*/\s*think(?:ing)?\s*\]|"
    r"<\|end_of_thought\|>|<\|END_THINKING\|>|<unused95>|<\|channel\|>\s*final\b[^<]{0,100}"
    r"(?:<\|constrain\|>[^<]{0,100})?<\|message\|>|assistantfinal"
)
_TAG = re.compile(rf"(?P<closing>{_CLOSING})|(?P<opening>{_OPENING})", re.IGNORECASE)
# What may be the beginning of an object with anything in it: a brace, and a key with its colon.
_BEGINNING = re.compile(r'\{\s*"(?:[^"\\]|\\.){0,200}"\s*:')
# An object that the end of the text cuts off before its first value.
_CUT = re.compile(r'\{\s*(?:"(?:[^"\\]|\\.)*\\?(?:"\s*:?\s*)?)?')


class _Twice(dict[str, object]):
    """An object that gives one of its keys two values."""


@dataclass(frozen=True)
class _Found:
    """A JSON object that stands in no other, and where."""

    start: int
    end: int
    value: dict[str, object]


def parse_answer[A: BaseModel](form: type[A], text: str) -> A:
    """Read the answer of `form` from a model's text.

    What stands before the end of its thinking is passed over, whatever the tags. Of the rest the last JSON object
    of `form` is the answer: fences, prose, lists and other objects around it do not matter, nor do objects within it.
    Line breaks may stand in strings as they are. Thinking without an end has no answer, nor has a text that ends
    within an object.

    Raises ValueError that says, in one line, what is wrong with the answer.
    """
    found, broken = _objects(text)
    start = _end_of_thinking(text, found)
    candidates = [one for one in found if one.start >= start]
    fault = ""
    last = max([one.end for one in candidates], default=start)
    cut = _cut_off(text, last, broken)
    if cut:
        raise ValueError(cut)
    for one in reversed(candidates[-_MOST_TRIED:]):
        answer, wrong = _fit(form, one.value)
        if answer is not None:
            return answer
        fault = fault or wrong
    if fault:
        raise ValueError(fault)
    late = [said for at, said in broken if at >= start]
    raise ValueError(late[0] if late else "there is no JSON object in it")


def has_thinking(text: str) -> bool:
    """Whether thinking stands in front of a text: it begins with a tag of it, or has the end of one alone.

    A model that must keep to a form from its first character thinks within it. A tag in the middle of a text is quoted.
    """
    tag = _TAG.search(text)
    return tag is not None and (not text[: tag.start()].strip() or tag.group("closing") is not None)


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs) and any(made[key] != value for key, value in pairs):
        return _Twice(made)
    return made


# Not strict: line breaks and tabs within strings are read as they are.
_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_pairs)


def _objects(text: str) -> tuple[list[_Found], list[tuple[int, str]]]:
    """All objects that stand in no other, and (start, fault) of what begins like one and is none."""
    found: list[_Found] = []
    broken: list[tuple[int, str]] = []
    at = 0
    while match := _BEGINNING.search(text, at):
        start = match.start()
        try:
            value, at = _DECODER.raw_decode(text, start)
        except json.JSONDecodeError as error:
            ends = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
            broken.append((start, f"not valid JSON ({error.msg}, character {error.pos})" + (_END if ends else "")))
            at = start + 1
        except RecursionError:
            broken.append((start, "not valid JSON (nested too deeply)"))
            at = start + 1
        except ValueError:  # a number of thousands of digits
            broken.append((start, "not valid JSON (a number is too long)"))
            at = start + 1
        else:
            found.append(_Found(start, at, value))
        if len(broken) > _MOST_BROKEN:
            raise ValueError("not valid JSON (too many braces that begin no object)")
    return found, broken


_END = ": the text ends within it"


def _end_of_thinking(text: str, found: list[_Found]) -> int:
    """Where the last thinking ends, 0 where there was none. Tags in the strings of objects are what they say."""
    end, open_since = 0, -1
    number = 0
    for tag in _TAG.finditer(text):
        while number < len(found) and found[number].end <= tag.start():
            number += 1
        if number < len(found) and found[number].start < tag.start():
            continue
        if tag.group("closing"):
            end, open_since = tag.end(), -1
        elif open_since < 0:
            open_since = tag.start()
    if open_since >= 0:
        raise ValueError(f"its thinking ({_tag_of(text[open_since:])}) has no end, and no answer after it")
    return end


def _tag_of(text: str) -> str:
    """The tag that `text` begins with, on one line."""
    tag = _TAG.match(text)
    return " ".join((tag.group() if tag else text)[:30].split()) or "analysis"


def _cut_off(text: str, last: int, broken: list[tuple[int, str]]) -> str:
    """What is wrong where the text ends within an object that begins after `last`; "" otherwise."""
    for start, said in broken:
        if start >= last and said.endswith(_END):
            return said.removesuffix(_END)
    brace = text.rfind("{", last)
    if brace >= 0 and _CUT.fullmatch(text, brace):
        return "not valid JSON (the text ends within an object)"
    return ""


def _fit[A: BaseModel](form: type[A], value: dict[str, object]) -> tuple[A | None, str]:
    """The answer that an object is, or the only one within it; otherwise what is wrong with it."""
    answer, fault = _validated(form, value)
    if answer is not None:
        return answer, ""
    inner: list[A] = []
    for one in _within(value):
        answer, _ = _validated(form, one)
        if answer is not None and answer not in inner:
            inner.append(answer)
    return (inner[0], "") if len(inner) == 1 else (None, fault)


def _validated[A: BaseModel](form: type[A], value: dict[str, object]) -> tuple[A | None, str]:
    if isinstance(value, _Twice):
        return None, "it gives one of its fields two values"
    try:
        return form.model_validate(value), ""
    except ValidationError as error:
        return None, first_fault(error)


def _within(value: object, depth: int = 0) -> Iterator[dict[str, object]]:
    """The outermost objects within a value."""
    if depth > _DEEPEST:
        return
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(inner, dict):
            yield inner
        if isinstance(inner, dict | list):
            yield from _within(inner, depth + 1)
