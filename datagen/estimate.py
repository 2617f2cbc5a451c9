"""What a run will ask for, before it asks: calls, tokens and dollars by role."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from aloe_jax.conversation import Persona
from aloe_jax.expected_use import (
    REASON_WORDS,
    REPLY_TEXT,
    REPLY_WORDS,
    TOKENS_PER_WORD,
    USER_TEXT,
    USER_WORDS,
    ExpectedUse,
    dry_run_table,
    expected_use,
    prompt_tokens,
    typical_history,
)
from aloe_jax.llm.settings import RoleSettings
from datagen.conversations import TALKING_ROLES, plan
from datagen.journal import BATCH, CONVERSATION
from datagen.pool.growth import Batch
from datagen.settings import ConversationsSettings, DatagenSettings

if TYPE_CHECKING:
    from rich.table import Table

    from aloe_jax.llm.ledger import Ledger

# Share of candidates that a pool accepts, where no batch has shown it yet.
ACCEPTED = 0.7
# Share of the price that a batched call costs (Gemini Batch API).
BATCH_DISCOUNT = 0.5


def estimate_personas(
    ledger: Ledger | None, settings: DatagenSettings, seeds: tuple[Sequence[str], Sequence[str]]
) -> list[ExpectedUse]:
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
        prompt += rounds * prompt_tokens("persona_writer", inputs)
        reply += rounds * wanted.candidates * words * TOKENS_PER_WORD
    return [_estimate(ledger, settings, "persona_writer", calls - len(batches), prompt, reply, calls)]


def estimate_conversations(ledger: Ledger, personas: list[Persona], settings: DatagenSettings) -> list[ExpectedUse]:
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
        prompt = sum(count * prompt_tokens(role, _typical(persona, depth)) for depth, count in depths.items())
        # What has been revealed grows to about half of the persona.
        words = replies.get(role, described / 4)
        calls = left * per_turn[role] * sum(depths.values())
        scale = left * per_turn[role]
        estimates.append(
            _estimate(ledger, settings, role, calls, scale * prompt, calls * words * TOKENS_PER_WORD, calls)
        )
    return estimates


def table(found: Sequence[ExpectedUse]) -> Table:
    """The estimates with their sum."""
    return dry_run_table(
        found,
        "Output tokens a call are guessed (g, thinking not counted) or the mean of earlier calls (m). Repairs "
        "and repeated turns come on top: a tenth more is usual.",
    )


def _estimate(
    ledger: Ledger | None, settings: DatagenSettings, name: str, calls: float, prompt: float, reply: float, over: float
) -> ExpectedUse:
    """`prompt` and `reply` are tokens over `over` calls, of which `calls` are still to be made."""
    role: RoleSettings = getattr(settings.roles, name)
    per_prompt, per_reply = (prompt / over, reply / over) if over else (0.0, 0.0)
    used = ledger.usage() if ledger else {}
    found = expected_use(name, role, name, max(0, round(calls)), per_prompt, per_reply, used)
    if found.cost and name != "persona_writer" and settings.conversations.batch:
        return replace(found, cost=found.cost * BATCH_DISCOUNT)
    return found


def _turns_by_depth(wanted: ConversationsSettings) -> dict[int, int]:
    """How many turns of one conversation lie at each depth."""
    forks = min(wanted.branch_depth, wanted.turns - 1) if wanted.branch == "both" else 0
    return {depth: 2 ** min(depth, forks) for depth in range(wanted.turns)}


def _typical(persona: Persona, depth: int) -> Mapping[str, object]:
    return {
        "profile": persona.profile,
        "personality": persona.personality,
        "history": typical_history(depth),
        "messages": [USER_TEXT] * (depth + 1),
        "hinted": True,
        "faithful": False,
        "first": REPLY_TEXT,
        "second": REPLY_TEXT,
    }


def _words(text: str) -> int:
    return len(text.split())
