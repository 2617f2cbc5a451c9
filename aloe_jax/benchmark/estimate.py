"""What a benchmark run will ask for, before it asks: calls, tokens and dollars by role."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from aloe_jax.benchmark.calibration import QUALITY, known_replies
from aloe_jax.benchmark.scoring import judge_roles
from aloe_jax.benchmark.settings import EvaluateSettings
from aloe_jax.conversation import Message, Persona
from aloe_jax.llm.settings import RoleSettings

if TYPE_CHECKING:
    from rich.table import Table

    from aloe_jax.llm.ledger import Ledger, Usage

# What is taken for a text where the journal holds none to measure, in words.
USER_WORDS, REPLY_WORDS, REASON_WORDS = 30, 45, 25
TOKENS_PER_WORD = 1.35  # of English prose
ENOUGH = 20  # calls of a role from which their mean is trusted rather than a guess


@dataclass(frozen=True)
class Question:
    """What one player of the settings is asked in one role, how often, and at which depths (finished exchanges)."""

    player: str
    settings: RoleSettings
    role: str  # whose prompt
    calls: int
    depths: Sequence[int]
    words: int  # of an answer


@dataclass(frozen=True)
class Estimate:
    """Expected use of one player in one role."""

    player: str
    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost: float | None  # US dollars; None without a price
    measured: bool  # output tokens a call are the mean of earlier calls, not a guess


def estimate(settings: EvaluateSettings, personas: Sequence[Persona], ledger: Ledger | None) -> list[Estimate]:
    """The calls of a whole run, role by role; repairs and repeated questions come on top.

    Calls that the journal holds already are not subtracted, but what they took is how long answers are expected.
    """
    typical = sorted(personas, key=lambda one: len(one.profile) + len(one.personality))[len(personas) // 2]
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
            known = known_replies(judge.provider == "scripted", judging.calibration_personas)
            ratings += len(known) * len(QUALITY)
        yield Question(place, judge, "judge", ratings, turns, REASON_WORDS)
        if judging.pairs:
            asked = 2 * cases * len(judging.pairs)
            yield Question(place, judge, "comparer", asked, [settings.turns], REASON_WORDS)


def table(estimates: Sequence[Estimate], used: Mapping[str, Usage]) -> Table:
    """The estimates with their sum, and what the journal holds (`Ledger.usage`)."""
    from rich.table import Table

    held = f"{sum(usage.calls for usage in used.values()):,} calls, ${sum(u.cost or 0 for u in used.values()):,.2f}"

    shown = Table(
        title="Dry run: what is expected, nothing was asked",
        title_justify="left",
        caption=f"A whole run; what the journal holds ({held}) is not asked again. Output tokens a call are guessed "
        "(g, thinking not counted) or the mean of earlier calls (m). Repairs and repeated questions come on top: a "
        "tenth more is usual.",
        caption_justify="left",
    )
    for number, head in enumerate(("role", "model", "calls", "tokens in", "out", "", "cost")):
        shown.add_column(head, justify="right" if number >= 2 else "left")
    for one in estimates:
        shown.add_row(
            *(one.player, one.model, f"{one.calls:,}", f"{one.input_tokens:,}", f"{one.output_tokens:,}"),
            *("m" if one.measured else "g", "no price" if one.cost is None else f"${one.cost:,.2f}"),
        )
    if len(estimates) > 1:
        costs = [one.cost for one in estimates]
        total = "no price" if None in costs else f"${sum(cost or 0 for cost in costs):,.2f}"
        sums = (sum(getattr(one, name) for one in estimates) for name in ("calls", "input_tokens", "output_tokens"))
        shown.add_row("all", "", *(f"{number:,}" for number in sums), "", total)
    return shown


def _estimate(question: Question, typical: Persona, used: Mapping[str, Usage]) -> Estimate:
    role = question.settings
    model = "scripted" if role.provider == "scripted" else role.model or "(no model named)"
    prompt = fmean(_prompt_tokens(question.role, _inputs(typical, depth)) for depth in question.depths)
    reply = question.words * TOKENS_PER_WORD
    seen = used.get(f"{model}/{question.role}")
    measured = seen is not None and seen.calls >= ENOUGH and seen.output_tokens > 0
    if seen is not None and measured:
        reply = seen.output_tokens / seen.calls
    elif role.thinking_budget:
        reply += role.thinking_budget
    spent, written = round(question.calls * prompt), round(question.calls * reply)
    cost = None if role.price is None else role.price.cost(spent, written)
    if role.provider in ("policy", "scripted"):
        cost = 0.0
    player = question.player if question.role != "comparer" else f"{question.player}, side by side"
    return Estimate(player, model, question.calls, spent, written, cost, measured)


def _inputs(persona: Persona, depth: int) -> Mapping[str, Any]:
    said, answered = ("word " * USER_WORDS).strip(), ("word " * REPLY_WORDS).strip()
    history: list[Message] = []
    for _ in range(depth):
        history += [{"role": "user", "content": said}, {"role": "assistant", "content": answered}]
    dialogue = " ".join(message["content"] for message in history)
    return {
        "profile": persona.profile,
        "personality": persona.personality,
        "history": history,
        "hinted": False,
        "faithful": False,
        "reply": answered,
        "first": dialogue,
        "second": dialogue,
    }


def _prompt_tokens(role: str, inputs: Mapping[str, Any]) -> float:
    from aloe_jax.roles import render

    return sum(len(text.split()) for text in render(role, inputs)) * TOKENS_PER_WORD
