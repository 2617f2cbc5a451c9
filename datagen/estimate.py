"""What a run will ask for, before it asks: calls, tokens and dollars by role."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from aloe_jax.conversation import Message, Persona
from aloe_jax.llm.settings import RoleSettings
from datagen.conversations import TALKING_ROLES, plan
from datagen.journal import BATCH, CONVERSATION
from datagen.pool.growth import Batch
from datagen.settings import ConversationsSettings, DatagenSettings

if TYPE_CHECKING:
    from rich.table import Table

    from aloe_jax.llm.ledger import Ledger, Usage

# What is taken for a text where the journal holds none to measure, in words.
USER_WORDS, REPLY_WORDS, REASON_WORDS = 30, 45, 25
TOKENS_PER_WORD = 1.35  # of English prose
# Calls of a role from which their mean is trusted rather than a guess.
ENOUGH = 20
# Share of candidates that a pool accepts, where no batch has shown it yet.
ACCEPTED = 0.7
# Share of the price that a batched call costs (Gemini Batch API).
BATCH_DISCOUNT = 0.5


@dataclass(frozen=True)
class Estimate:
    """Expected use of one role."""

    role: str
    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost: float | None  # US dollars; None without a price
    measured: bool  # output tokens a call are the mean of earlier calls, not a guess


def estimate_personas(
    ledger: Ledger | None, settings: DatagenSettings, seeds: tuple[Sequence[str], Sequence[str]]
) -> list[Estimate]:
    """The calls to the persona writer that a fresh pool would take."""
    wanted = settings.personas
    batches = [ledger.read(Batch, BATCH, id, record) for id, record in ledger.all(BATCH).items()] if ledger else []
    offered = sum(len(batch.accepted) + sum(batch.refused.values()) for batch in batches)
    share = sum(len(batch.accepted) for batch in batches) / offered if offered else ACCEPTED
    targets = (wanted.profiles + wanted.benchmark_profiles, wanted.personalities + wanted.benchmark_personalities)
    calls = prompt = reply = 0.0
    for target, texts, kind in zip(targets, seeds, ("profile", "personality"), strict=True):
        words = fmean(_words(text) for text in texts)
        rounds = math.ceil(max(0, target - len(texts)) / (wanted.candidates * max(share, 0.01)))
        inputs = {"kind": kind, "examples": list(texts[: wanted.examples]), "count": wanted.candidates}
        calls += rounds
        prompt += rounds * _prompt_tokens("persona_writer", inputs)
        reply += rounds * wanted.candidates * words * TOKENS_PER_WORD
    return [_estimate(ledger, settings, "persona_writer", calls - len(batches), prompt, reply, calls)]


def estimate_conversations(ledger: Ledger, personas: list[Persona], settings: DatagenSettings) -> list[Estimate]:
    """The calls of the planned conversations that the journal does not hold.

    Calls already made for unfinished conversations are not subtracted: the estimate is what is left at most,
    repairs and repeated turns left out.
    """
    wanted = settings.conversations
    finished = ledger.all(CONVERSATION).keys()
    left = sum(name not in finished for name, _ in plan(personas, wanted.count, settings.seed))
    depths = _turns_by_depth(wanted)
    per_turn = {"user": 1, "inducer": int(wanted.hint), "responder": 2, "verifier": 1 + wanted.verify_twice}
    persona = sorted(personas, key=lambda one: len(one.profile) + len(one.personality))[len(personas) // 2]
    described = _words(persona.profile) + _words(persona.personality)
    replies = {"user": USER_WORDS, "responder": REPLY_WORDS, "verifier": REASON_WORDS}
    estimates = []
    for role in TALKING_ROLES:
        prompt = sum(count * _prompt_tokens(role, _typical(persona, depth)) for depth, count in depths.items())
        # What has been revealed grows to about half of the persona.
        words = replies.get(role, described / 4)
        calls = left * per_turn[role] * sum(depths.values())
        scale = left * per_turn[role]
        estimates.append(
            _estimate(ledger, settings, role, calls, scale * prompt, calls * words * TOKENS_PER_WORD, calls)
        )
    return estimates


def table(estimates: Sequence[Estimate], settings: DatagenSettings) -> Table:
    """The estimates with their sum."""
    from rich.table import Table

    shown = Table(
        title="Dry run: what is expected, nothing was asked",
        title_justify="left",
        caption="Output tokens a call are guessed (g, thinking not counted) or the mean of earlier calls (m). Repairs "
        "and repeated turns come on top: a tenth more is usual.",
        caption_justify="left",
    )
    for number, head in enumerate(("role", "model", "calls", "tokens in", "out", "", "cost")):
        shown.add_column(head, justify="right" if number >= 2 else "left")
    for one in estimates:
        shown.add_row(
            *(one.role, one.model, f"{one.calls:,}", f"{one.input_tokens:,}", f"{one.output_tokens:,}"),
            *("m" if one.measured else "g", "no price" if one.cost is None else f"${one.cost:,.2f}"),
        )
    if len(estimates) > 1:
        costs = [one.cost for one in estimates]
        total = "no price" if None in costs else f"${sum(cost or 0 for cost in costs):,.2f}"
        sums = (sum(getattr(one, name) for one in estimates) for name in ("calls", "input_tokens", "output_tokens"))
        shown.add_row("all", "", *(f"{number:,}" for number in sums), "", total)
    return shown


def _estimate(
    ledger: Ledger | None, settings: DatagenSettings, name: str, calls: float, prompt: float, reply: float, over: float
) -> Estimate:
    """`prompt` and `reply` are tokens over `over` calls, of which `calls` are still to be made."""
    role: RoleSettings = getattr(settings.roles, name)
    model = "scripted" if role.provider == "scripted" else role.model or "(no model named)"
    calls = max(0, round(calls))
    each_prompt, each_reply = (prompt / over, reply / over) if over else (0.0, 0.0)
    seen = _usage(ledger, model, name)
    measured = seen is not None and seen.calls >= ENOUGH and seen.output_tokens > 0
    if seen is not None and measured:
        each_reply = seen.output_tokens / seen.calls
    elif role.thinking_budget:
        each_reply += role.thinking_budget
    spent, written = round(calls * each_prompt), round(calls * each_reply)
    cost = None if role.price is None else role.price.cost(spent, written)
    if role.provider in ("policy", "scripted"):
        cost = 0.0
    elif cost is not None and name != "persona_writer" and settings.conversations.batch:
        cost *= BATCH_DISCOUNT
    return Estimate(name, model, calls, spent, written, cost, measured)


def _usage(ledger: Ledger | None, model: str, role: str) -> Usage | None:
    return ledger.usage().get(f"{model}/{role}") if ledger else None


def _turns_by_depth(wanted: ConversationsSettings) -> dict[int, int]:
    """How many turns of one conversation lie at each depth."""
    forks = min(wanted.branch_depth, wanted.turns - 1) if wanted.branch == "both" else 0
    return {depth: 2 ** min(depth, forks) for depth in range(wanted.turns)}


def _typical(persona: Persona, depth: int) -> Mapping[str, Any]:
    said, answered = ("word " * USER_WORDS).strip(), ("word " * REPLY_WORDS).strip()
    history: list[Message] = []
    for _ in range(depth):
        history += [{"role": "user", "content": said}, {"role": "assistant", "content": answered}]
    return {
        "profile": persona.profile,
        "personality": persona.personality,
        "history": history,
        "messages": [said] * (depth + 1),
        "hinted": True,
        "faithful": False,
        "first": answered,
        "second": answered,
    }


def _prompt_tokens(role: str, inputs: Mapping[str, Any]) -> float:
    from aloe_jax.roles import render

    return sum(_words(text) for text in render(role, inputs)) * TOKENS_PER_WORD


def _words(text: str) -> int:
    return len(text.split())
