"""What can be counted in replies without any judge: length, variety, facts used and facts let out."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from aloe_jax.benchmark.dialogue import Dialogue
from aloe_jax.benchmark.fact_use import Facts, facts_of
from aloe_jax.benchmark.results import FactSearch, StoredAutomatic

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


@dataclass(frozen=True)
class Measured:
    """One reply: its words, and its facts."""

    words: int
    facts: Facts


def measure(dialogue: Dialogue, way: FactSearch) -> list[Measured]:
    """Every reply of a dialogue."""
    users = [exchange.user for exchange in dialogue.exchanges]
    return [
        Measured(
            len(_words(exchange.reply.text)),
            facts_of(way, dialogue.persona, users[: turn + 1], exchange.reply.text),
        )
        for turn, exchange in enumerate(dialogue.exchanges)
    ]


def automatic(
    dialogues: Sequence[Dialogue], measured: Sequence[Sequence[Measured]], way: FactSearch, turns: int
) -> StoredAutomatic:
    """The measures of all replies of one model; `measured` is `measure` of each dialogue."""
    texts = [[_words(exchange.reply.text) for exchange in dialogue.exchanges] for dialogue in dialogues]
    every = list(itertools.chain.from_iterable(texts))
    flat = list(itertools.chain.from_iterable(measured))
    columns = [[row[turn] for row in measured if turn < len(row)] for turn in range(turns)]
    return StoredAutomatic(
        way=way,
        words=_mean(one.words for one in flat),
        distinct_1=_distinct(every, 1),
        distinct_2=_distinct(every, 2),
        distinct_2_within=_mean(_distinct(replies, 2) for replies in texts if replies),
        mentioned=_mentioned(flat),
        leaked=_mean(bool(one.facts.leaked) for one in flat),
        untrue=_mean(bool(one.facts.untrue) for one in flat) if way == "exact" else math.nan,
        words_by_turn=[_mean(one.words for one in column) for column in columns],
        mentioned_by_turn=[_mentioned(column) for column in columns],
        leaked_by_turn=[_mean(bool(one.facts.leaked) for one in column) for column in columns],
    )


def _mentioned(measured: Iterable[Measured]) -> float:
    return _mean(bool(one.facts.mentioned) for one in measured if one.facts.revealed)


def _mean(values: Iterable[float]) -> float:
    some = [value for value in map(float, values) if not math.isnan(value)]
    return float(np.mean(some)) if some else math.nan


def _distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    grams = [tuple(words[i : i + n]) for words in texts for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def _words(text: str) -> list[str]:
    return [word.replace("\u2019", "'").lower() for word in _WORD.findall(text)]
