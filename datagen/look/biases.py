"""What the verifier's preferences go with besides the persona: length, and the position that it read a reply in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aloe_jax.benchmark.automatic import words_of
from aloe_jax.conversation import Conversation, Turn
from datagen.look.shares import Share, shares

PROBLEM = 0.05  # how far from a half a share has to be for a warning that models may learn it


@dataclass(frozen=True)
class LengthBias:
    """How length and preference go together, in words, over pairs (turns with two replies)."""

    pairs: int
    unequal: int  # of them, in which one reply is longer
    preferred_words: float  # means over the pairs; NaN where there are none
    rejected_words: float
    longer: Share  # of the unequal pairs, in which the preferred reply is the longer one
    by_turn: tuple[Share, ...]  # the same by depth of the turn, the first turn's first


@dataclass(frozen=True)
class PositionBias:
    """How the verifier's preferences go with the order in which it read the replies."""

    pairs: int
    recorded: int  # of them, that say which reply was read first
    first: Share  # of the answers given for these pairs, the ones for the reply that was read first
    asked_twice: int  # pairs that were asked about in both orders
    redrawn: int  # pairs given up before them, on which the answers contradicted each other
    favoured_first: int  # of those, in which the reply read first was preferred both times


def length_bias(conversations: Sequence[Conversation]) -> LengthBias:
    """Of all pairs. Words are counted as the report counts them; intervals are those of `shares`."""
    pairs = _pairs(conversations)
    words = [(len(words_of(turn.preferred)), len(words_of(turn.rejected or ""))) for _, _, turn in pairs]
    longer = np.array([float(one > other) for one, other in words])
    unequal = np.array([float(one != other) for one, other in words])
    depths = np.array([depth for _, depth, _ in pairs], int)
    turns = range(depths.max(initial=-1) + 1)
    counted = np.stack([np.ones(len(pairs)), *((depths == turn).astype(float) for turn in turns)], axis=1)
    overall, *by_turn = _ratios(conversations, pairs, longer[:, None] * counted, unequal[:, None] * counted)
    return LengthBias(
        pairs=len(pairs),
        unequal=int(sum(unequal)),
        preferred_words=_mean([one for one, _ in words]),
        rejected_words=_mean([other for _, other in words]),
        longer=overall,
        by_turn=tuple(by_turn),
    )


def position_bias(conversations: Sequence[Conversation]) -> PositionBias:
    """Of all pairs that record it; a pair that was asked about in both orders counts with all answers it took."""
    pairs = _pairs(conversations)
    first, answers = [], []
    for _, _, turn in pairs:
        if turn.shown_first is None:
            first.append(0.0)
            answers.append(0.0)
        elif turn.favoured_first is None or turn.favoured_second is None:
            first.append(float(turn.shown_first == "preferred"))
            answers.append(1.0)
        else:  # the pair itself was preferred once from either position
            first.append(1.0 + 2 * turn.favoured_first)
            answers.append(2.0 + 2 * (turn.favoured_first + turn.favoured_second))
    turns = [turn for _, _, turn in pairs]
    favoured = sum(turn.favoured_first or 0 for turn in turns)
    return PositionBias(
        pairs=len(pairs),
        recorded=sum(turn.shown_first is not None for turn in turns),
        first=_ratios(conversations, pairs, np.array([first]).T, np.array([answers]).T)[0],
        asked_twice=sum(turn.favoured_first is not None for turn in turns),
        redrawn=favoured + sum(turn.favoured_second or 0 for turn in turns),
        favoured_first=favoured,
    )


def is_clear(share: Share) -> bool:
    """Whether an interval leaves out a half, and the share is far enough from it to matter."""
    return (share.low > 0.5 or share.high < 0.5) and abs(share.value - 0.5) >= PROBLEM


Pair = tuple[int, int, Turn]  # number of the conversation, depth of the turn from 0


def _pairs(conversations: Sequence[Conversation]) -> list[Pair]:
    return [
        (owner, tree.depth(number), turn)
        for owner, tree in enumerate(conversations)
        for number, turn in enumerate(tree.turns)
        if turn.rejected is not None
    ]


def _ratios(
    conversations: Sequence[Conversation], pairs: Sequence[Pair], part: np.ndarray, whole: np.ndarray
) -> list[Share]:
    """Of columns [P pairs, M]."""
    owners = np.array([owner for owner, _, _ in pairs], int)
    sums = []
    for values in (part, whole):
        of_conversation = np.zeros((len(conversations), values.shape[1]))
        np.add.at(of_conversation, owners, values)
        sums.append(of_conversation)
    return shares(sums[0], sums[1], [tree.persona for tree in conversations])


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else math.nan
