"""Sentences and content words: what persona texts are compared by."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

# The end of a sentence: its marks, a closing quote or bracket, and the white space after them. A full stop after a
# title or a single capital ("Dr. Ahn", "J. Ode") ends nothing.
_END = re.compile(
    r"(?<!\bDr)(?<!\bMr)(?<!\bMs)(?<!\bMrs)(?<!\bSt)(?<!\b[A-Z])[.!?\u2026]+[\"'\u201d\u2019)\]]*\s+"
    r"|\s*\n\s*|(?<=[\u3002\uff01\uff1f])"
)
_WORD = re.compile(r"\w+")


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with the white space after it: joined they are the text again."""
    parts: list[str] = []
    start = 0
    for end in (match.end() for match in _END.finditer(text)):
        if text[start:end].strip():
            parts.append(text[start:end])
            start = end
    if text[start:]:
        if text[start:].strip() or not parts:
            parts.append(text[start:])
        else:
            parts[-1] += text[start:]
    return parts


def words(text: str) -> list[str]:
    """The lower-case words of a text."""
    return _WORD.findall(text.lower())


def content_words(text: str) -> list[str]:
    """The stems of the words that are no English stop words, in order and as often as they occur."""
    return stems(words(text))


def stems(lower_case_words: Iterable[str]) -> list[str]:
    """What `content_words` keeps of the words of a text."""
    return [stem for word in lower_case_words if (stem := _stem(word))]


@cache
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return ENGLISH_STOP_WORDS | {"s", "t", "d", "m", "ll", "re", "ve", "don", "doesn", "didn", "isn", "likes", "like"}


@cache
def _stem(word: str) -> str | None:
    """The word without a plain English ending, so that "she bakes" and "baking" meet; None for a stop word."""
    if word in _stop_words():
        return None
    for ending, instead in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""), ("e", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word[: len(word) - len(ending)] + instead
    return word
