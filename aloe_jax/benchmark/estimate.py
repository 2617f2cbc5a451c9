"""What a benchmark run will ask for, before it asks: calls, tokens and dollars by role."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from aloe_jax.benchmark.calibration import QUALITY, known_replies
from aloe_jax.benchmark.scoring import judge_roles
from aloe_jax.benchmark.settings import EvaluateSettings
from aloe_jax.conversation import Persona
from aloe_jax.llm.cost import (
    REASON_WORDS,
    REPLY_WORDS,
    TOKENS_PER_WORD,
    USER_WORDS,
    CostEstimate,
    cost_table,
    expected_cost,
    prose_tokens,
    typical_history,
    typical_inputs,
    typical_persona,
)
from aloe_jax.llm.ledger import Ledger, Usage
from aloe_jax.llm.settings import RoleSettings
from aloe_jax.roles import render, transcript

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Question:
    """What one player of the settings is asked in one role, how often, and at which depths (finished exchanges)."""

    player: str
    settings: RoleSettings
    role: str  # whose prompt
    calls: int
    depths: Sequence[int]
    words: int  # of an answer


def estimate(settings: EvaluateSettings, personas: Sequence[Persona], ledger: Ledger | None) -> list[CostEstimate]:
    """The calls of a whole run, role by role; repairs and repeated questions come on top.

    Calls that the journal holds already are not subtracted, but what they took is how long answers are expected.
    """
    typical = typical_persona(personas)
    used = ledger.usage() if ledger else {}
    return [_estimate(question, typical, used) for question in questions(settings, len(personas))]


def questions(settings: EvaluateSettings, cases: int) -> Iterator[Question]:
    """Everything that is asked of language models in a run."""
    turns, models = range(settings.turns), settings.models
    # The opening is the same for every model, and asked for once.
    openings = cases * (1 + len(models) * (settings.turns - 1))
    yield Question("roles.user", settings.roles.user, "user", openings, turns, USER_WORDS)
    each = cases * settings.turns
    if references := sum(candidate.scripted is not None for candidate in models.values()):
        yield Question("roles.responder", settings.roles.responder, "responder", references * each, turns, REPLY_WORDS)
    for name, candidate in models.items():
        if candidate.remote is not None:
            yield Question(f"models.{name}.remote", candidate.remote, "responder", each, turns, REPLY_WORDS)
    judging = settings.judging
    for name, judge in judge_roles(settings).items():
        place = f"judging.judges.{name}" if judging.judges else "roles.judge"
        ratings = len(models) * each * judging.votes
        if judging.calibrate != "skip":
            known = known_replies(judge.entry.simulated, judging.calibration_personas)
            ratings += len(known) * len(QUALITY)
        yield Question(place, judge, "judge", ratings, turns, REASON_WORDS)
        if judging.pairs:
            asked = 2 * cases * len(judging.pairs)
            yield Question(place, judge, "comparer", asked, [settings.turns], REASON_WORDS)


def table(estimates: Sequence[CostEstimate], used: Mapping[str, Usage]) -> Table:
    """The estimates with their sum, and what the journal holds (`Ledger.usage`)."""
    stored = f"{sum(usage.calls for usage in used.values()):,} calls, ${sum(u.cost or 0 for u in used.values()):,.2f}"
    return cost_table(
        estimates,
        f"This is a whole run; what the journal has ({stored}) is not asked again. Repairs and repeated questions come "
        "on top: a tenth more is usual.",
    )


def _estimate(question: Question, typical: Persona, used: Mapping[str, Usage]) -> CostEstimate:
    prompt = fmean(_prompt_tokens(question.role, typical, depth) for depth in question.depths)
    player = question.player if question.role != "comparer" else f"{question.player}, side by side"
    tokens = prompt, question.words * TOKENS_PER_WORD
    return expected_cost(player, question.settings, question.role, question.calls, tokens, used)


def _prompt_tokens(role: str, persona: Persona, depth: int) -> float:
    inputs = typical_inputs(persona, depth)
    if role == "comparer":
        inputs["first"] = inputs["second"] = transcript(typical_history(depth))
    return prose_tokens(render(role, inputs))
