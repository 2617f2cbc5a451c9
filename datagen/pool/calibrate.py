"""Finds the similarity threshold that belongs to a vectoriser: near-copies are written and compared with real texts."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import numpy as np
from rich.markup import escape
from rich.table import Table

from aloe_jax.errors import AloeError
from aloe_jax.llm.ledger import Ledger
from datagen.personas import recorded_pools
from datagen.pool.embeddings import Vectors
from datagen.pool.similarity import neighbours, paired
from datagen.pool.survey import age, find_age
from datagen.settings import DatagenSettings

COMPARED = (0.5, 0.6, 0.7, 0.8)  # thresholds shown beside the recommended one
FEWEST = 5  # texts from which a distribution is worth looking at
SPARSE = 100  # below, a warning is shown
TOLERATED = 0.05  # share of real texts that may be refused
SHOWN = 3  # pairs of the most similar real texts

_SENTENCE = re.compile(r"[^.!?]+[.!?]+[\"')]*|[^.!?]+$")
_CLAUSE = re.compile(r",? (?:and|who|which|but|while|with|because)\b [^.,;!?]+|, [^.,;!?]+")
_PAIRS = (
    "she he, her his, hers his, herself himself, woman man, girl boy, wife husband, mother father, daughter son, "
    "sister brother, widow widower, grandmother grandfather, girlfriend boyfriend, actress actor, waitress waiter, "
    "aunt uncle, niece nephew"
)
_SWAPS = dict(pair.split() for pair in _PAIRS.split(", "))
_SWAPS |= {man: woman for woman, man in _SWAPS.items()} | {"him": "her", "his": "her"}
_GENDERED = re.compile(rf"\b({'|'.join(_SWAPS)})\b", re.IGNORECASE)


@dataclass(frozen=True)
class SimilarityCalibration:
    """How similar real texts are to each other, and near-copies to what they copy."""

    nearest: np.ndarray  # [texts], each text to the nearest other one
    earlier: np.ndarray  # [texts], each text to the nearest of those before it; -1 for the first
    copies: dict[str, np.ndarray]  # kind of copy -> [copies], each copy to its original
    closest: list[tuple[float, str, str]]  # the pairs of real texts that are most alike

    @property
    def threshold(self) -> float:
        """The threshold recommended for these texts."""
        return recommend([self])

    def wrongly_refused(self, threshold: float) -> float:
        """Share of the texts refused when they are offered to an empty pool one after the other."""
        return float((self.earlier > threshold).mean())

    def wrongly_kept(self, threshold: float) -> float:
        """Share of the near-copies accepted into a pool that holds their originals."""
        return float((np.concatenate(list(self.copies.values())) <= threshold).mean())


def calibrate(texts: Sequence[str], vectors: Vectors) -> SimilarityCalibration:
    """Compare texts with each other and with near-copies of themselves.

    The same texts give the same copies. Raises AloeError when there are too few texts or they repeat.
    """
    if len(texts) < FEWEST:
        raise AloeError(f"calibrate: {len(texts)} texts are too few; give at least {FEWEST}")
    if len(set(texts)) < len(texts):
        repeated = next(text for text, count in Counter(texts).items() if count > 1)
        raise AloeError(f"calibrate: a text is given twice; remove one of them: {repeated[:80]!r}")
    rows = vectors.transform(texts)
    nearest, partner, earlier = neighbours(rows)
    copies = {}
    for kind, change in CHANGES.items():
        made = [change(text, texts[number - 1], random.Random(f"{kind} {text}")) for number, text in enumerate(texts)]
        changed = {number: copy for number, copy in enumerate(made) if copy is not None and copy != texts[number]}
        if changed:
            copies[kind] = paired(rows[list(changed)], vectors.transform(list(changed.values())))
    pairs = {tuple(sorted((number, int(other)))): nearest[number] for number, other in enumerate(partner)}
    closest = sorted(pairs, key=lambda pair: -pairs[pair])[:SHOWN]
    return SimilarityCalibration(
        nearest, earlier, copies, [(pairs[one, two], texts[one], texts[two]) for one, two in closest]
    )


def recommend(calibrations: Sequence[SimilarityCalibration]) -> float:
    """The threshold that keeps the fewest near-copies among those that refuse hardly a real text anywhere.

    A real text refused costs one more candidate, a near-copy kept stays: so `TOLERATED` of the real texts are
    given up, which also leaves room for the near-copies that they may hold themselves. Where a range of
    thresholds is equally good, its middle, as far from the real texts as from the copies.
    """
    grid = np.arange(1, 100) / 100
    refused = np.array([[one.wrongly_refused(threshold) for one in calibrations] for threshold in grid])
    kept = np.array([sum(one.wrongly_kept(threshold) for one in calibrations) for threshold in grid])
    good = refused.max(axis=1) <= TOLERATED
    if not good.any():
        good = refused.sum(axis=1) == refused.sum(axis=1).min()
    good &= kept <= kept[good].min()
    good &= refused.sum(axis=1) <= refused.sum(axis=1)[good].min()
    best = grid[good]  # neighbours on the grid, for both shares are monotone
    return float(best[(len(best) - 1) // 2])


# ---------------------------------------------------------------- near-copies


def _other_age(text: str, other: str, draw: random.Random) -> str | None:
    found, years = find_age(text), age(text)
    if found is None or years is None:
        return None
    return text[: found.start("age")] + str(years + draw.choice((-3, -2, -1, 1, 2, 3))) + text[found.end("age") :]


def _other_gender(text: str, other: str, draw: random.Random) -> str | None:
    def swap(match: re.Match[str]) -> str:
        word = match[0].lower()
        if word == "her":  # "saw her." and "saw her at" against "her cat"
            follows = re.match(r" (?!(?:at|in|on|to|for|and|with|from|by|every)\b)\w", text[match.end() :])
            word = "his" if follows else "him"
        else:
            word = _SWAPS[word]
        return word.capitalize() if match[0][0].isupper() else word

    return _GENDERED.sub(swap, text)


def _replaced_sentence(text: str, other: str, draw: random.Random) -> str | None:
    parts, theirs = _sentences(text), _sentences(other)
    if len(parts) < 3:
        return None
    parts[draw.randrange(1, len(parts))] = draw.choice(theirs)
    return " ".join(parts)


def _reordered(text: str, other: str, draw: random.Random) -> str | None:
    parts = _sentences(text)
    if len(parts) < 2:
        return None
    while (shuffled := draw.sample(parts, len(parts))) == parts and len(set(parts)) > 1:
        pass
    return " ".join(shuffled)


def _dropped_clause(text: str, other: str, draw: random.Random) -> str | None:
    clauses = list(_CLAUSE.finditer(text))
    if not clauses:
        parts = _sentences(text)
        del parts[draw.randrange(len(parts))]
        return " ".join(parts) or None
    dropped = draw.choice(clauses)
    return text[: dropped.start()] + text[dropped.end() :]


CHANGES: dict[str, Callable[[str, str, random.Random], str | None]] = {
    "age changed": _other_age,
    "gender swapped": _other_gender,
    "one sentence replaced": _replaced_sentence,
    "sentences reordered": _reordered,
    "one clause dropped": _dropped_clause,
}


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in _SENTENCE.findall(text) if part.strip()]


# ---------------------------------------------------------------- texts to compare


def texts_for(settings: DatagenSettings, ledger: Ledger, path: Path | None = None) -> dict[str, list[str]]:
    """What to calibrate on, by name: the texts of a file, or else both pools as far as the journal holds them.

    A pool that has not been begun is its seeds. Raises AloeError when the file or the seeds cannot be read.
    """
    if path is not None:
        return {f"texts of {path.name}": read_texts(path)}
    return {name: pool.members for name, pool in recorded_pools(ledger, settings).items()}


def read_texts(path: Path) -> list[str]:
    """Texts from a file: one a line, or, in a .json or .jsonl file, JSON strings one after the other.

    Empty lines are passed over and repeated texts read once. Raises AloeError naming the file and the line.
    """
    from datagen.convert.persona_pool import read_pool

    texts = read_pool(path, plain=path.suffix not in (".json", ".jsonl"))
    return list(dict.fromkeys(" ".join(text.split()) for text in texts))


# ---------------------------------------------------------------- what is shown


def tables(found: SimilarityCalibration, title: str = "texts") -> list[Table]:
    """The distributions, and what each threshold would refuse and keep wrongly."""
    spread = Table(title=f"Cosine similarity, {len(found.nearest):,} {title}", title_justify="left")
    if len(found.nearest) < SPARSE:
        spread.caption = "So few texts differ much; calibrate again when the pool has grown."
        spread.caption_justify = "left"
    spread.add_column("")
    for head in ("count", "least", "5%", "median", "95%", "most"):
        spread.add_column(head, justify="right")
    for name, values in {"to the nearest other text": found.nearest, **found.copies}.items():
        figures = np.quantile(values, (0, 0.05, 0.5, 0.95, 1))
        spread.add_row(name, f"{len(values):,}", *(f"{figure:.2f}" for figure in figures))

    shares = Table(title=f"What a threshold does to {title}", title_justify="left")
    for head in ("threshold", "wrongly refused", "wrongly kept", *(f"kept: {kind}" for kind in found.copies)):
        shares.add_column(head, justify="right")
    for threshold in sorted({*COMPARED, found.threshold}):
        kept = [f"{(values <= threshold).mean():.1%}" for values in found.copies.values()]
        mark = "best " if threshold == found.threshold else ""
        shares.add_row(
            f"{mark}{threshold:.2f}",
            *(f"{found.wrongly_refused(threshold):.1%}", f"{found.wrongly_kept(threshold):.1%}", *kept),
        )

    pairs = Table(title=f"The most similar {title}: are they copies?", title_justify="left", show_lines=True)
    pairs.add_column("similarity", justify="right")
    for head in ("one", "the other"):
        pairs.add_column(head)
    for similarity, one, other in found.closest:
        pairs.add_row(f"{similarity:.2f}", *(escape(shorten(text, 240)) for text in (one, other)))
    return [spread, shares, pairs]
