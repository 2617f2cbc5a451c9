"""Hygiene of what language models write in a role: stage directions, sentences, quotations of a description."""

from __future__ import annotations

import re
from collections.abc import Callable

_STARRED = re.compile(r"(\*+)([^\s*](?:[^*\n]*[^\s*])?)\1")
_SPACES = re.compile(r"[ \t]{2,}")
_BEFORE_STOP = re.compile(r" +([.,;:!?])")
# A sentence ends at a stop, with closing quotes, before white space and no lower-case letter; not after a title, an
# initial or "e.g.".
_END = re.compile(
    r"(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bvs)(?<!\bMrs)(?<!\be\.g)(?<!\bi\.e)(?<!\b[A-Z])"
    r"(?:[.!?…]+[\"'\u201d\u2019)\]]*)(?=\s+[^\sa-z])"
)
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?")
# Words that carry no fact: what is left when a model turns "She has two cats" into "has two cats".
_EMPTY = frozenset(
    (
        *("a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "has", "have", "he", "her", "hers", "him"),
        *("his", "i", "in", "is", "it", "its", "likes", "me", "my", "of", "on", "or", "she", "that", "the", "their"),
        *("them", "they", "this", "to", "was", "who", "with", "you", "your"),
    )
)
_SHARE = 0.8  # of a piece's words that must be in one description for it to count as taken from there


def without_stage_directions(text: str) -> str:
    """Drop what is acted (`*smiles warmly*`), keep what is stressed (`**very**`, or one `*word*` in a sentence).

    Returns "" when nothing is said.
    """
    if "*" not in text:
        return text

    def plain(match: re.Match[str]) -> str:
        stars, inner = match.group(1), match.group(2)
        before = text[: match.start()].rstrip()
        opens = not before or before[-1] in ".!?…*\n"
        closes = not text[match.end() :].strip(" \t*\n")
        stressed = len(stars) > 1 or (len(inner.split()) == 1 and not opens and not closes)
        return inner if stressed else " "

    kept = _SPACES.sub(" ", _STARRED.sub(plain, text))
    return _BEFORE_STOP.sub(r"\1", kept).strip()


def sentences(text: str) -> list[str]:
    """Split prose at the ends of its sentences; line breaks end one, too."""
    found: list[str] = []
    for line in text.splitlines():
        start = 0
        for end in _END.finditer(line):
            found.append(line[start : end.end()].strip())
            start = end.end()
        found.append(line[start:].strip())
    return [sentence for sentence in found if sentence]


def first_sentences(text: str, count: int) -> str:
    """`text` without what follows its first `count` sentences."""
    end = 0
    for sentence in sentences(text)[:count]:
        end = text.index(sentence, end) + len(sentence)
    return text[:end]


def quoted_from(description: str) -> Callable[[str], bool]:
    """Whether a piece of text repeats `description`: word for word, or at least in four of five of its words.

    Pronouns, articles and the like do not count, so a clause may have been taken out of its sentence.
    """
    whole = " ".join(_words(description))
    known = frozenset(whole.split())

    def is_quoted(piece: str) -> bool:
        if " ".join(_words(piece)) in whole:
            return True
        telling = telling_words(piece)
        return bool(telling) and sum(word in known for word in telling) >= _SHARE * len(telling)

    return is_quoted


def keep_quoted(text: str, description: str) -> tuple[str, list[str]]:
    """The sentences of `text` that repeat `description`, and those that do not."""
    if text in description:  # as it should be; the empty text, too
        return text, []
    is_quoted = quoted_from(description)
    kept: list[str] = []
    invented: list[str] = []
    for sentence in sentences(text):
        (kept if is_quoted(sentence) else invented).append(sentence)
    return " ".join(kept), invented


def telling_words(text: str) -> list[str]:
    """The words of a text, in lower case, that may carry a fact: without pronouns, articles and the like."""
    return [word for word in _words(text) if word not in _EMPTY]


def _words(text: str) -> list[str]:
    return [word.replace("\u2019", "'").lower() for word in _WORD.findall(text)]
