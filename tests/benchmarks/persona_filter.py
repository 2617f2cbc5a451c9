"""The pool filter against comparing texts pair by pair: `python -m tests.benchmarks.persona_filter`.

3,310 made-up profiles go through the filter as they come from a writer, 20 to a call, and 256 to a call; embeddings
are stood in for by random dense rows. The pairwise way is timed on the first few hundred and scaled with the square
of their number, which is how it grows. Both must accept the same texts.
"""

from __future__ import annotations

import random
import resource
import time
import zlib
from collections.abc import Sequence

import click
import numpy as np

from datagen.pool.embeddings import Words
from datagen.pool.similarity import Novelty

THRESHOLD = 0.6


def draw_profiles(count: int, seed: int = 0) -> list[str]:
    """Texts of 40 to 80 words from a vocabulary with the usual few common and many rare words; 1 in 10 a near-copy."""
    draw = random.Random(seed)
    vocabulary = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9))) for _ in range(4000)]
    weights = [1 / rank for rank in range(20, 4020)]
    texts: list[str] = []
    while len(texts) < count:
        if texts and draw.random() < 0.1:
            words = draw.choice(texts).split()
            words[draw.randrange(len(words))] = draw.choice(vocabulary)
        else:
            words = draw.choices(vocabulary, weights, k=draw.randint(40, 80))
        texts.append(" ".join(words))
    return texts


class Dense:
    """Random unit rows, the same for the same text, as an embedding model would return them."""

    def __init__(self, width: int = 768):
        self.width = width

    def transform(self, texts: Sequence[str]) -> np.ndarray:
        """Float32 [len(texts), width]."""
        rows = [
            np.random.default_rng(zlib.crc32(text.encode())).standard_normal(self.width, np.float32) for text in texts
        ]
        stacked = np.stack(rows)
        return stacked / np.linalg.norm(stacked, axis=1, keepdims=True)


def filtered(texts: list[str], batch: int, novelty: Novelty) -> list[str]:
    """All texts through the filter, `batch` at a time."""
    members: list[str] = []
    for start in range(0, len(texts), batch):
        members += novelty.filter(texts[start : start + batch])[0]
    return members


def pairwise(texts: list[str]) -> list[str]:
    """The plain way: every candidate against every member, their words looked up one by one."""
    words = Words()
    members: list[str] = []
    rows: list[dict[int, float]] = []
    for text in texts:
        vector = words.transform([text])
        row = dict(zip(vector.indices.tolist(), vector.data.tolist(), strict=True))
        if all(sum(row[word] * other[word] for word in row.keys() & other.keys()) <= THRESHOLD for other in rows):
            rows.append(row)
            members.append(text)
    return members


@click.command()
@click.option("--candidates", default=3310, show_default=True)
@click.option("--sample", default=600, show_default=True, help="Texts that the pairwise way is timed on.")
def main(candidates: int, sample: int) -> None:
    """Print CPU seconds of the filter and of the pairwise way."""
    texts = draw_profiles(candidates)
    Words().transform(texts[:1])  # the import is not what is measured
    spent: dict[str, float] = {}

    def measure(name: str, novelty: Novelty, batch: int) -> list[str]:
        start = time.process_time()
        members = filtered(texts, batch, novelty)
        spent[name] = time.process_time() - start
        print(f"{name}: {len(members):,} of {candidates:,} accepted in {spent[name]:.2f} CPU seconds")
        return members

    by_call = measure("words, 20 to a call", Novelty(THRESHOLD), 20)
    if measure("words, 256 to a call", Novelty(THRESHOLD), 256) != by_call:
        raise click.ClickException("the size of the calls changed what was accepted")
    measure("dense rows of 768, 20 to a call", Novelty(THRESHOLD, Dense()), 20)

    start = time.process_time()
    members = pairwise(texts[:sample])
    seconds = time.process_time() - start
    if members != filtered(texts[:sample], 20, Novelty(THRESHOLD)):
        raise click.ClickException("the filter and the pairwise way accepted different texts")
    scaled = seconds * (candidates / sample) ** 2
    print(
        f"pair by pair: {seconds:.2f} CPU seconds for {sample:,}, about {scaled:,.0f} for {candidates:,}; "
        f"the filter is {scaled / spent['words, 20 to a call']:,.0f} times as fast"
    )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


if __name__ == "__main__":
    main()
