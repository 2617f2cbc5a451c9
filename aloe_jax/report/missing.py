"""What is missing below full coverage, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from aloe_jax.benchmark.number_text import counted, listed, percent
from aloe_jax.benchmark.results import ModelResults

SHOWN = 3  # reasons that are given in full


def missing(numbers: ModelResults) -> list[str]:
    """One line for each kind of gap; none where a model is complete."""
    found = []
    due = numbers.cases * numbers.turns
    by_turn = [round((1 - share) * numbers.cases) for share in numbers.coverage_by_turn]
    gone = sum(by_turn)
    if gone:
        turns = [f"{count} at turn {turn}" for turn, count in enumerate(by_turn, 1) if count]
        where = listed(turns) if len(turns) <= 2 * SHOWN else f"at {len(turns)} of the {numbers.turns} turns"
        found.append(f"{counted(gone, 'reply', 'replies')} of {due:,} without a rating: {where}")
    if numbers.stopped:
        found.append(f"{counted(len(numbers.stopped), 'dialogue')} stopped early: {_reasons(numbers.stopped.values())}")
    if numbers.votes_coverage < 1 and not numbers.complete:
        found.append(f"{percent(numbers.votes_coverage)} of the votes asked for are there")
    return found


def _reasons(reasons: Iterable[str]) -> str:
    often = Counter(reasons)
    shown = [reason + (f" ({count} times)" if count > 1 else "") for reason, count in often.most_common(SHOWN)]
    more = len(often) - len(shown)
    return "; ".join(shown) + (f"; and {counted(more, 'other reason')}" if more else "")
