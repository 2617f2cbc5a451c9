"""Two models side by side: judges read both dialogues with the same person, in both orders.

A model wins a case with a judge when the judge prefers it in both orders; anything else is a tie, a judge who
contradicts itself included. With several judges the case goes to the model that more of them give it to.

The test is the sign test where people are distinct. Where they share profiles or personalities it is Student's t on
wins less losses (`aloe_jax.benchmark.shared_parts`), and the win rate's interval is of the same kind.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from aloe_jax.benchmark.case_design import CaseDesign
from aloe_jax.benchmark.dialogue import Dialogue
from aloe_jax.benchmark.intervals import Array, design_p_values, interval, left_out
from aloe_jax.benchmark.judge import Judge
from aloe_jax.benchmark.results import Outcome, StoredSideBySide
from aloe_jax.benchmark.runner import WorkerPool
from aloe_jax.conversation import Persona
from aloe_jax.coverage import why

_EMPTY = "of dialogues without a turn"
_SCORE: dict[Outcome, float] = {"first": -1.0, "tie": 0.0, "second": 1.0}
_WINNER: dict[float, Outcome] = {score: outcome for outcome, score in _SCORE.items()}


def side_by_side(
    names: tuple[str, str],
    dialogues: tuple[Sequence[Dialogue], Sequence[Dialogue]],
    judges: Sequence[Judge],
    concurrency: int,
    bootstrap: int = 2000,
    seed: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> StoredSideBySide:
    """Compare the dialogues of two models, case by case; a dialogue that stopped early is cut off both.

    `progress` is called for every answer, from several threads. Raises AloeError when a judge cannot be reached.
    """
    answers: dict[tuple[int, int, int], Outcome | None] = {}  # case, judge, order
    first_shown: list[bool] = []
    missing: list[str] = []
    errors: list[Exception] = []

    def ask(case: int, judge: int, order: int) -> None:
        sides = [rows[case] for rows in dialogues]
        turns = min(len(side.exchanges) for side in sides)
        shown = [side.history(turns) for side in sides]
        one, other = shown[order], shown[1 - order]
        answer = judges[judge].compare(sides[0].persona, one, other) if turns else _EMPTY
        if isinstance(answer, str):
            answers[case, judge, order] = None
            missing.append(why(answer))
        elif answer.preferred == "tie":
            answers[case, judge, order] = "tie"
        else:
            first_shown.append(answer.preferred == "A")
            answers[case, judge, order] = "first" if (answer.preferred == "A") == (order == 0) else "second"
        progress()

    cases = len(dialogues[0])
    with WorkerPool(concurrency) as pool:
        for question in itertools.product(range(cases), range(len(judges)), (0, 1)):
            pool.submit(ask, *question, failed=errors.append)
    if errors:
        raise errors[0]
    scores = np.full((cases, len(judges)), np.nan)  # 1: second wins, -1: first
    turned = 0
    for case, judge in itertools.product(range(cases), range(len(judges))):
        straight, swapped = answers[case, judge, 0], answers[case, judge, 1]
        if straight is not None and swapped is not None:
            scores[case, judge] = {"first": -1.0, "second": 1.0}.get(straight, 0.0) if straight == swapped else 0.0
            turned += {straight, swapped} == {"first", "second"}
    read = ~np.isnan(scores)
    decided = np.where(read.any(axis=1), np.sign(np.nansum(scores, axis=1)), np.nan)
    found = _summary(decided, [side.persona for side in dialogues[0]], bootstrap, seed)
    return StoredSideBySide(
        first=names[0],
        second=names[1],
        wins=found.wins,
        ties=found.ties,
        losses=found.losses,
        win_rate=found.win_rate,
        low=found.low,
        high=found.high,
        p=found.p,
        shown_first=float(np.mean(first_shown)) if first_shown else math.nan,
        contradictions=turned / int(read.sum()) if read.any() else math.nan,
        coverage=sum(answer is not None for answer in answers.values()) / len(answers),
        outcomes=tuple(_WINNER.get(float(score)) for score in decided),
        missing=Counter(missing),
    )


@dataclass(frozen=True)
class _Summary:
    """What decided cases say of the second model; NaN where it is undefined."""

    wins: int
    ties: int
    losses: int
    win_rate: float
    low: float
    high: float
    p: float


def recomputed(
    stored: StoredSideBySide, personas: Sequence[Persona], bootstrap: int = 2000, seed: int = 0
) -> StoredSideBySide:
    """A stored comparison with interval and p-value from its outcomes anew; `personas` are those of its cases."""
    decided = np.array([math.nan if one is None else _SCORE[one] for one in stored.outcomes])
    return stored.model_copy(update={**asdict(_summary(decided, personas, bootstrap, seed)), "p_holm": None})


def _summary(decided: Array, personas: Sequence[Persona], bootstrap: int, seed: int) -> _Summary:
    """Of cases [N]: 1 where the second model wins, -1 where the first does, 0 for ties, NaN where nothing is known."""
    given = decided[~np.isnan(decided)]
    wins, losses = int((given > 0).sum()), int((given < 0).sum())
    value = low = high = math.nan
    p = sign_test(wins, losses)
    if len(given):
        people = CaseDesign.of([persona for persona, one in zip(personas, decided, strict=True) if not math.isnan(one)])

        def win_rate(weights: Array) -> Array:
            return weights @ (given[:, None] + 1) / 2 / weights.sum(axis=1, keepdims=True)

        point, ends = interval(win_rate, people, bootstrap, seed, 0.0, 1.0)
        value, low, high = float(point[0]), float(ends[0, 0]), float(ends[1, 0])
        if people.kind != "distinct" and people.people > 1:
            without = win_rate(people.by_case(left_out(people.people)))
            p = float(design_p_values(point - 0.5, without - 0.5, people)[0])
    return _Summary(wins, len(given) - wins - losses, losses, value, low, high, p)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p-value of so many wins and losses where both are equally likely; NaN where there are none."""
    count = wins + losses
    if not count:
        return math.nan
    tail = sum(math.comb(count, k) for k in range(max(wins, losses), count + 1)) / 2**count
    return min(1.0, 2 * tail)
