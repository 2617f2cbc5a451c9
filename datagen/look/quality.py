"""Quality measures of conversation trees that need no language model: drift, repetition, persona leakage.

They are computed from word counts, so they find faults to look at and compare data sets; none is a judgement of a text.
Words are what stands between spaces and punctuation, stop words are English: for other languages compare with care.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np

from aloe_jax.benchmark.automatic import words_of
from aloe_jax.conversation import Branch, Conversation, Persona
from datagen.look.sentences import content_words, sentences, stems, words
from datagen.look.shares import shares

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

STATED = 0.6  # share of a sentence's content words that a text must have to count as stating it
SHORTEST = 2  # content words below which a sentence cannot be distinguished and is passed over
BATCH = 200  # conversations measured together: bounds memory
_FEATURES = 2**20


@dataclass(frozen=True)
class Measures:
    """Means over turns. NaN where there is nothing to measure, as drift in a first turn.

    drift: topic drift, 1 − cosine between a user message and the exchange before it (the user message and the reply
        that it answers), on counts of content words. 0 stays on the words, 1 shares none.
    reply_repetition: share of the word 4-grams of a turn's replies that an earlier reply of its path has.
    user_repetition: the same for the user message and the earlier user messages.
    leakage: share of replies that state a persona sentence which the user had not revealed. A text states a sentence
        when it has at least 60% of its content words; revealed is what the inferred persona of the turn or the user's
        messages so far, taken together, state.
    revealed: share of the persona's sentences that the inferred persona states.
    user_words, reply_words: length, counted as the report counts it.
    hint_won: share of turns where the reply with the hint is the preferred one, of those that record it.
    """

    drift: float
    reply_repetition: float
    user_repetition: float
    leakage: float
    revealed: float
    user_words: float
    reply_words: float
    hint_won: float


NAMES = tuple(field.name for field in fields(Measures))


@dataclass(frozen=True)
class Label:
    """How a measure is shown to people."""

    name: str  # of the field of Measures
    label: str
    unit: Literal["share", "words", "distance"]
    help: str

    def written(self, value: float) -> str:
        """The value in its unit, a dash where there is none."""
        if np.isnan(value):
            return "\u2013"
        return {"share": f"{value:.1%}", "words": f"{value:.1f}", "distance": f"{value:.2f}"}[self.unit]

    def reach(self, low: float, high: float) -> str:
        """An interval, a dash where there is none."""
        return "\u2013" if np.isnan(low) else f"{self.written(low)} to {self.written(high)}"


LABELS = (
    Label("drift", "topic drift", "distance", "1 minus the cosine between a user message and the exchange before it"),
    Label(
        "reply_repetition",
        "reply repetition",
        "share",
        "word 4-grams of replies that an earlier reply of the same path has",
    ),
    Label(
        "user_repetition",
        "user repetition",
        "share",
        "word 4-grams of user messages that an earlier one of the same path has",
    ),
    Label("leakage", "persona leakage", "share", "replies that state a persona sentence the user had not revealed"),
    Label(
        "revealed", "persona inferred", "share", "persona sentences that the inferred persona states, mean over turns"
    ),
    Label("hint_won", "hint preferred", "share", "turns where the reply written with the hint is the preferred one"),
    Label("user_words", "user words", "words", "words of a user message"),
    Label("reply_words", "reply words", "words", "words of a reply"),
)


@dataclass(frozen=True)
class Leak:
    """A reply that states a persona sentence which the user had not revealed."""

    turn: int
    branch: Branch
    sentence: int  # of the profile's sentences followed by the personality's


@dataclass(frozen=True)
class Quality:
    """Measures of conversations: by conversation, their mean, and by depth of the turn (0 for first turns)."""

    overall: Measures  # mean over conversations
    conversations: list[Measures]  # means over the turns of every conversation
    turns: list[Measures]  # mean over the turns of that depth
    leaks: list[list[Leak]]  # by conversation


def measure(conversations: Sequence[Conversation]) -> Quality:
    """Measure every conversation. Raises ValueError when there are none."""
    if not conversations:
        raise ValueError("no conversations to measure")
    tables: list[np.ndarray] = []  # per batch [turns, measures]
    leaks: list[list[Leak]] = []
    for start in range(0, len(conversations), BATCH):
        table, found = _Batch(conversations[start : start + BATCH]).measure()
        tables.append(table)
        leaks += found
    table = np.concatenate(tables)
    owners = np.repeat(np.arange(len(conversations)), [len(tree.turns) for tree in conversations])
    depths = np.array([tree.depth(number) for tree in conversations for number in range(len(tree.turns))])
    rows = _means(table, owners, len(conversations))
    return Quality(
        overall=_measures(_means(rows, np.zeros(len(rows), int), 1)[0]),
        conversations=[_measures(row) for row in rows],
        turns=[_measures(row) for row in _means(table, depths, depths.max() + 1)],
        leaks=leaks,
    )


def intervals(quality: Quality, personas: Sequence[Persona]) -> dict[str, tuple[float, float]]:
    """95% intervals of the means over conversations, by measure, with the conversations' `personas`; see `shares`."""
    table = np.array([[getattr(one, name) for name in NAMES] for one in quality.conversations])
    known = ~np.isnan(table)
    most = [np.inf if name.endswith("words") else 1.0 for name in NAMES]
    found = shares(np.where(known, table, 0.0), known, personas, most=most)
    return {name: (share.low, share.high) for name, share in zip(NAMES, found, strict=True)}


def _measures(row: np.ndarray) -> Measures:
    return Measures(*row.tolist())


def _means(table: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Mean of the rows of each group without NaN: [rows, measures], [rows] -> [count, measures]."""
    known = ~np.isnan(table)
    total = np.zeros((count, table.shape[1]))
    number = np.zeros_like(total)
    np.add.at(total, groups, np.where(known, table, 0.0))
    np.add.at(number, groups, known)
    return _share(total, number)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) != 0)


class _Batch:
    """Some conversations as sparse matrices with a row a turn; T turns, C content words, G 4-grams (both hashed)."""

    def __init__(self, conversations: Sequence[Conversation]):
        from scipy.sparse import csr_matrix, identity

        self._conversations = conversations
        turns = [turn for tree in conversations for turn in tree.turns]
        texts: dict[str, list[str]] = {
            "user": [turn.user for turn in turns],
            "preferred": [turn.preferred for turn in turns],
            "rejected": [turn.rejected or "" for turn in turns],
        }
        self._has_rejected = np.array([turn.rejected is not None for turn in turns])
        self._hinted = np.array([{"preferred": 1.0, "rejected": 0.0, None: np.nan}[turn.hinted] for turn in turns])
        tokens = {name: [words(text) for text in column] for name, column in texts.items()}
        self._lengths = {name: np.array([len(words_of(text)) for text in column]) for name, column in texts.items()}
        self._words = {name: _count(stems, column) for name, column in tokens.items()}  # [T, C]
        self._grams = {name: _count(_four_grams, column) for name, column in tokens.items()}  # [T, G]
        self._inferred = _count(
            content_words, [f"{turn.inferred_profile}\n{turn.inferred_personality}" for turn in turns]
        )

        # [T, T]: from a turn to the turns before it on its path, by the reply that the path takes there.
        firsts = np.cumsum([0] + [len(tree.turns) for tree in conversations])
        self._firsts = firsts[:-1]
        paths: dict[Branch, list[tuple[int, int]]] = {"preferred": [], "rejected": []}
        steps: dict[Branch, list[tuple[int, int]]] = {"preferred": [], "rejected": []}
        for first, tree in zip(self._firsts, conversations, strict=True):
            for number in range(len(tree.turns)):
                path = tree.path(number)
                for earlier, branch in path:
                    paths[branch].append((first + number, first + earlier))
                if path:
                    steps[path[-1][1]].append((first + number, first + path[-1][0]))

        def matrix(pairs: list[tuple[int, int]]) -> csr_matrix:
            rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
            return csr_matrix((np.ones(len(pairs)), (rows, columns)), (len(turns), len(turns)))

        self._paths = {branch: matrix(pairs) for branch, pairs in paths.items()}
        self._steps = {branch: matrix(pairs) for branch, pairs in steps.items()}
        self._so_far = self._paths["preferred"] + self._paths["rejected"] + identity(len(turns), format="csr")

    def measure(self) -> tuple[np.ndarray, list[list[Leak]]]:
        """[T, measures] in the order of NAMES, and the leaks of each conversation."""
        leakage, revealed, leaks = self._persona()
        replies = 1 + self._has_rejected
        columns = {
            "drift": self._drift(),
            "reply_repetition": self._repetition(("preferred", "rejected")),
            "user_repetition": self._repetition(("user",)),
            "leakage": leakage,
            "revealed": revealed,
            "user_words": self._lengths["user"],
            "reply_words": (self._lengths["preferred"] + self._lengths["rejected"]) / replies,
            "hint_won": self._hinted,
        }
        return np.stack([np.asarray(columns[name], float) for name in NAMES], axis=1), leaks

    def _drift(self) -> np.ndarray:
        user = self._words["user"]
        before = (self._steps["preferred"] + self._steps["rejected"]) @ user
        before = before + self._steps["preferred"] @ self._words["preferred"]
        before = before + self._steps["rejected"] @ self._words["rejected"]
        lengths = np.sqrt(_row_sums(user.multiply(user)) * _row_sums(before.multiply(before)))
        return 1 - _share(_row_sums(user.multiply(before)), lengths)

    def _repetition(self, names: Sequence[str]) -> np.ndarray:
        if names == ("user",):
            earlier = (self._paths["preferred"] + self._paths["rejected"]) @ self._grams["user"]
        else:
            earlier = sum(self._paths[branch] @ self._grams[branch] for branch in self._paths)
        seen = _binary(earlier)
        again = np.sum([_row_sums(self._grams[name].multiply(seen)) for name in names], axis=0)
        whole = np.sum([_row_sums(self._grams[name]) for name in names], axis=0)
        # A first turn has nothing to repeat.
        return _share(again, whole * (_row_sums(self._so_far) > 1))

    def _persona(self) -> tuple[np.ndarray, np.ndarray, list[list[Leak]]]:
        """Leakage [T], revealed [T], and the leaks of each conversation."""
        parts = [sentences(tree.persona.profile) + sentences(tree.persona.personality) for tree in self._conversations]
        sentence_words = _binary(_count(content_words, [sentence for part in parts for sentence in part]))
        sizes = _row_sums(sentence_words)
        # Every turn with every sentence of its own conversation.
        turns, numbers, owners = [], [], []
        first_sentence = 0
        for owner, (first, tree, part) in enumerate(zip(self._firsts, self._conversations, parts, strict=True)):
            usable = [n for n in range(len(part)) if sizes[first_sentence + n] >= SHORTEST]
            for number in range(len(tree.turns)):
                turns += [first + number] * len(usable)
                numbers += [first_sentence + n for n in usable]
                owners += [owner] * len(usable)
            first_sentence += len(part)
        turn, sentence = np.array(turns, int), np.array(numbers, int)
        starts = np.cumsum([0] + [len(part) for part in parts])

        def states(text: csr_matrix) -> np.ndarray:
            both = _row_sums(_binary(text)[turn].multiply(sentence_words[sentence]))
            return both >= STATED * sizes[sentence] - 1e-9

        total = len(self._has_rejected)
        inferred = states(self._inferred)
        known = inferred | states(self._so_far @ self._words["user"])
        leaks: list[list[Leak]] = [[] for _ in self._conversations]
        replies = np.zeros(total)
        for branch in self._paths:
            stated = states(self._words[branch]) & ~known
            replies[np.unique(turn[stated])] += 1
            for pair in np.flatnonzero(stated):
                owner = owners[pair]
                found_at = int(turn[pair] - self._firsts[owner]), branch, int(sentence[pair] - starts[owner])
                leaks[owner].append(Leak(*found_at))
        for found in leaks:
            found.sort(key=lambda leak: (leak.turn, leak.branch, leak.sentence))
        count = np.bincount(turn, minlength=total)
        leakage = _share(replies, (1 + self._has_rejected) * (count > 0))
        return leakage, _share(np.bincount(turn, weights=inferred, minlength=total), count), leaks


def _count[Text](analyzer: Callable[[Text], list[str]], texts: list[Text]) -> csr_matrix:
    """Sparse counts [texts, features] of what `analyzer` finds in a text."""
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(analyzer=analyzer, norm=None, alternate_sign=False, n_features=_FEATURES)
    return vectorizer.transform(texts)


def _four_grams(tokens: list[str]) -> list[str]:
    return [" ".join(four) for four in zip(tokens, tokens[1:], tokens[2:], tokens[3:], strict=False)]


def _binary(matrix: csr_matrix) -> csr_matrix:
    copy = matrix.tocsr().copy()
    copy.data = np.ones_like(copy.data)
    return copy


def _row_sums(matrix: csr_matrix) -> np.ndarray:
    return np.asarray(matrix.sum(axis=1)).ravel()
