"""Keeps a pool of texts in which no two are near-copies of each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

# Words a description needs to hold more than a phrase, and the most that still reads as one description.
SHORTEST, LONGEST = 4, 400


class Novelty:
    """Accepts a text when its cosine similarity to every text accepted before it is at most `threshold`.

    Texts are vectors of hashed words and pairs of words (English stop words left out), so that nothing is
    fitted and an old vector never changes. A threshold belongs to this vectoriser: near 0.6, two people who
    share a job and a town pass, and the same person with one sentence exchanged does not.
    """

    def __init__(self, threshold: float):
        from sklearn.feature_extraction.text import HashingVectorizer

        self.threshold = threshold
        self._vectorizer = HashingVectorizer(stop_words="english", ngram_range=(1, 2), n_features=2**18)
        self._pool: Any = None  # sparse [texts, features], rows of unit length

    def add(self, texts: Sequence[str]) -> None:
        """Take texts into the pool unseen, as when a pool is read back from a journal."""
        if texts:
            self._append(self._vectorizer.transform(texts))

    def filter(self, candidates: Iterable[str]) -> tuple[list[str], Counter[str]]:
        """Add the candidates that are new, in order; returns them and how many were refused by reason.

        Earlier candidates win over later ones of the same batch. One sparse product compares the whole batch
        with the pool, one more compares it with itself.
        """
        refused: Counter[str] = Counter()
        texts: list[str] = []
        for candidate in candidates:
            text = " ".join(candidate.split())
            reason = _bad_format(text)
            if reason:
                refused[reason] += 1
            else:
                texts.append(text)
        if not texts:
            return [], refused
        vectors = self._vectorizer.transform(texts)
        nearest = [0.0] * len(texts)
        if self._pool is not None:
            nearest = (vectors @ self._pool.T).max(axis=1).toarray()[:, 0].tolist()
        among = (vectors @ vectors.T).toarray()
        accepted: list[int] = []
        for row in range(len(texts)):
            if vectors[row].nnz == 0:
                refused["nothing but stop words"] += 1
            elif max([nearest[row], *among[row, accepted]]) > self.threshold:
                refused["similar to a member"] += 1
            else:
                accepted.append(row)
        if accepted:
            self._append(vectors[accepted])
        return [texts[row] for row in accepted], refused

    def _append(self, vectors: Any) -> None:
        from scipy.sparse import vstack

        self._pool = vectors if self._pool is None else vstack([self._pool, vectors], format="csr")


def _bad_format(text: str) -> str | None:
    words = len(text.split())
    if not words:
        return "empty"
    if words < SHORTEST:
        return f"shorter than {SHORTEST} words"
    if words > LONGEST:
        return f"longer than {LONGEST} words"
    return None
