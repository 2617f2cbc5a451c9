"""Keeps a pool of well-formed texts in which no two are near-copies of each other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from datagen.pool.embeddings import Vectors, Words

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    type Rows = np.ndarray | csr_matrix  # [n, D], dense or sparse

Kind = Literal["profiles", "personalities"]

# Words a description needs to hold more than a phrase, and the most that still reads as one description.
SHORTEST, LONGEST = 4, 400
_CHUNK = 256  # candidates compared at once: bounds the memory, whatever is handed over

# Typographic marks as their plain forms, so that the patterns need not name both.
_PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"})
_REFUSAL = re.compile(
    r"^\W*(?:(?:i(?:'m| am) )?(?:very |so |really )?sorry\b|unfortunately\b|(?:my )?apologies[,.!]|i apologi[sz]e\b"
    r"|i (?:can ?not|can't|won't|will not|must decline)\b|i(?:'m| am) (?:un|not )able\b|as an (?:ai|assistant),)"
    r"|\bas an? (?:ai|(?:large )?language) (?:language )?(?:model|assistant)\b",
    re.IGNORECASE,
)
_AROUND = re.compile(
    r"^\W*(?:sure|certainly|of course|absolutely|okay|ok|great)\s*[,!.:]|^\W*here(?: is| are|'s)\b"
    r"|^\W*(?:new |example |sample )?(?:profile|personality|persona|text|description)\b[^.]{0,12}:"
    r"|\blet me know if\b|\bi hope (?:this|these|that)\b|\bfeel free to (?:ask|adjust|change|modify|request|use)\b"
    r"|```|^\s*[{\[<]|[}\]>]\s*$",
    re.IGNORECASE,
)
_LIST = re.compile(r"^\s*(?:[-*•·]\s|\(?\d{1,3}[.)]\s|#|\*\*|__|\|)", re.MULTILINE)
_QUOTED = re.compile(r"\"[^\"]*\"|(?<!\w)'(?=\w)[^'\n]*'(?!\w)")
_NUMERAL = re.compile(r"\b(?:war|type|part|phase|level|class|stage|book|act|grade|chapter|league|elizabeth) I\b", re.I)
_FIRST_PERSON = re.compile(r"\bI\b|\b(?:my|me|myself)\b|(?:^|[.!?]\s+)My\b")


class Novelty:
    """Accepts a text when its cosine similarity to every text accepted before it is at most `threshold`.

    A threshold belongs to its vectors. For words, the default, near 0.6: two people who share a job and a town
    pass, and the same person with one sentence exchanged does not.
    """

    def __init__(self, threshold: float, vectors: Vectors | None = None, kind: Kind = "profiles"):
        self.threshold = threshold
        self._vectors = vectors or Words()
        self._kind: Kind = kind
        self._pool = _RowBlocks()

    def add(self, texts: Sequence[str]) -> None:
        """Take texts into the pool unseen, as when a pool is read back from a journal."""
        if texts:
            self._pool.append(self._vectors.transform(texts))

    def filter(self, candidates: Iterable[str]) -> tuple[list[str], Counter[str]]:
        """Add the candidates that are new, in order; returns them and how many were refused by reason.

        Earlier candidates win over later ones. The white space of what is returned is normalised.
        """
        refused: Counter[str] = Counter()
        texts: list[str] = []
        for candidate in candidates:
            reason = fault(candidate, self._kind)
            if reason:
                refused[reason] += 1
            else:
                texts.append(" ".join(candidate.split()))
        accepted: list[str] = []
        if texts:
            rows = self._vectors.transform(texts)
            for start in range(0, len(texts), _CHUNK):
                kept = self._admit(rows[start : start + _CHUNK], refused)
                accepted += [texts[start + row] for row in kept]
        return accepted, refused

    def _admit(self, rows: Rows, refused: Counter[str]) -> list[int]:
        """Take the new ones of `rows` [n, D] into the pool; returns their numbers."""
        nearest = self._pool.nearest(rows)  # [n]
        among = _dense(rows @ rows.T)  # [n, n]; 0 on the diagonal of a text without content
        accepted: list[int] = []
        for row in range(len(nearest)):
            if among[row, row] == 0:
                refused["nothing but stop words"] += 1
            elif max(nearest[row], among[row, accepted].max(initial=-1)) > self.threshold:
                refused["similar to a member"] += 1
            else:
                accepted.append(row)
        if accepted:
            self._pool.append(rows[accepted])
        return accepted


class _RowBlocks:
    """Rows of unit length in blocks, each more than twice as long as the next.

    Appending one by one then copies each row a logarithmic number of times, where one matrix stacked anew
    for every call would copy the whole pool each time.
    """

    def __init__(self) -> None:
        self._blocks: list[Rows] = []

    def append(self, rows: Rows) -> None:
        self._blocks.append(rows)
        while len(self._blocks) > 1 and self._blocks[-2].shape[0] <= 2 * self._blocks[-1].shape[0]:
            last = self._blocks.pop()
            self._blocks[-1] = _stack(self._blocks[-1], last)

    def nearest(self, rows: Rows) -> np.ndarray:
        """The cosine similarity of each of `rows` [n, D] to its nearest row in here, [n]; -1 when there is none."""
        columns = rows.T if isinstance(rows, np.ndarray) else rows.T.tocsr()  # which every product would else make
        nearest = np.full(rows.shape[0], -1.0)
        for block in self._blocks:
            nearest = np.maximum(nearest, _dense((block @ columns).max(axis=0)).reshape(-1))
        return nearest


def neighbours(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `rows` [n, D]: its cosine similarity to the nearest other row, which one that is, and its
    similarity to the nearest row before it (-1 for the first); each [n].
    """
    nearest, partner, earlier = np.empty(rows.shape[0]), np.empty(rows.shape[0], int), np.empty(rows.shape[0])
    for start in range(0, rows.shape[0], _CHUNK):
        products = _dense(rows[start : start + _CHUNK] @ rows.T)
        numbers = np.arange(start, start + len(products))
        products[numbers - start, numbers] = -1
        nearest[numbers], partner[numbers] = products.max(axis=1), products.argmax(axis=1)
        products[np.arange(rows.shape[0]) >= numbers[:, None]] = -1
        earlier[numbers] = products.max(axis=1)
    return nearest, partner, earlier


def paired(rows: Rows, others: Rows) -> np.ndarray:
    """The cosine similarity of each of `rows` [n, D] to the row with the same number in `others`, [n]."""
    products = rows.multiply(others) if hasattr(rows, "multiply") else rows * others
    return np.asarray(products.sum(axis=1)).reshape(-1)


def _dense(products: Rows) -> np.ndarray:
    return products.toarray() if hasattr(products, "toarray") else products


def _stack(upper: Rows, lower: Rows) -> Rows:
    if isinstance(upper, np.ndarray):
        return np.concatenate([upper, lower])
    from scipy.sparse import vstack

    return vstack([upper, lower], format="csr")


def fault(text: str, kind: Kind) -> str | None:
    """Why a text is no description fit for the pool `kind`, or None: what language models write instead of one."""
    text = text.translate(_PLAIN)
    words = len(text.split())
    faults = {
        "empty": not words,
        "a refusal": _REFUSAL.search(text),
        "prose around the text": _AROUND.search(text),
        "a list or heading": _LIST.search(text),
        f"shorter than {SHORTEST} words": words < SHORTEST,
        f"longer than {LONGEST} words": words > LONGEST,
        "first person": kind == "profiles" and _FIRST_PERSON.search(_NUMERAL.sub("", _QUOTED.sub("", text))),
    }
    return next((reason for reason, found in faults.items() if found), None)
