"""What a run will ask for, before it asks: calls, tokens and dollars by role."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext

from aloe_jax.conversation import Persona
from aloe_jax.llm import cost
from aloe_jax.llm.cost import CostEstimate
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.settings import RoleSettings
from aloe_jax.roles import render
from aloe_jax.terminal import console
from datagen.conversations import TALKING_ROLES, plan
from datagen.journal import BATCH, CONVERSATION, journal_path, open_journal
from datagen.personas import pool_sizes, recorded_personas
from datagen.pool.growth import Batch
from datagen.settings import ConversationsSettings, DatagenSettings

ACCEPTED = 0.7  # share of candidates that a pool accepts, where no batch has shown it yet
NOTE = "Repairs and repeated turns come on top: a tenth more is usual."


def show_estimate(settings: DatagenSettings, seeds: tuple[Sequence[str], Sequence[str]] | None) -> None:
    """Print expected calls, tokens and cost: of the personas where `seeds` are given, else of the conversations."""
    known = seeds is None or journal_path(settings).is_file()
    with open_journal(settings, writing=False) if known else nullcontext() as ledger:
        if seeds is not None:
            estimates = estimate_personas(ledger, settings, seeds)
        else:
            assert ledger is not None
            estimates = estimate_conversations(ledger, recorded_personas(ledger, settings).training, settings)
        console().print(cost.cost_table(estimates, NOTE))


def estimate_personas(
    ledger: Ledger | None, settings: DatagenSettings, seeds: tuple[Sequence[str], Sequence[str]]
) -> list[CostEstimate]:
    """The calls to the persona writer that a fresh pool would take."""
    wanted = settings.personas
    batches = [ledger.read(Batch, BATCH, id, record) for id, record in ledger.all(BATCH).items()] if ledger else []
    offered = sum(len(batch.accepted) + sum(batch.refused.values()) for batch in batches)
    share = sum(len(batch.accepted) for batch in batches) / offered if offered else ACCEPTED
    calls, prompt, reply = 0, 0.0, 0.0
    for target, texts, kind in zip(pool_sizes(settings).values(), seeds, ("profile", "personality"), strict=True):
        rounds = math.ceil(max(0, target - len(texts)) / (wanted.candidates * max(share, 0.01)))
        inputs = {"kind": kind, "examples": list(texts[: wanted.examples]), "count": wanted.candidates}
        calls += rounds
        prompt += rounds * cost.prose_tokens(render("persona_writer", inputs))
        reply += rounds * wanted.candidates * cost.prose_tokens(texts) / len(texts)
    role, used = settings.roles.persona_writer, ledger.usage() if ledger else {}
    tokens = (prompt / calls, reply / calls) if calls else (0.0, 0.0)
    return [cost.expected_cost("persona_writer", role, "persona_writer", max(0, calls - len(batches)), tokens, used)]


def estimate_conversations(ledger: Ledger, personas: list[Persona], settings: DatagenSettings) -> list[CostEstimate]:
    """The calls of the planned conversations that the journal does not hold.

    Calls already made for unfinished conversations are not subtracted: the estimate is what is left at most,
    repairs and repeated turns left out.
    """
    wanted = settings.conversations
    finished = ledger.all(CONVERSATION).keys()
    left = sum(name not in finished for name, _ in plan(personas, wanted.count, settings.seed))
    depths = _turns_by_depth(wanted)
    turns = sum(depths.values())
    persona = cost.typical_persona(personas)
    # What has been revealed grows to about half of the persona.
    inferred = cost.prose_tokens([persona.profile, persona.personality]) / 4
    answers = {"user": cost.USER_WORDS, "responder": cost.REPLY_WORDS, "verifier": cost.REASON_WORDS}
    calls = {"user": 1, "inducer": int(wanted.hint), "responder": 2, "verifier": 1 + wanted.verify_twice}
    used, estimates = ledger.usage(), []
    for name in TALKING_ROLES:
        inputs = ((count, cost.typical_inputs(persona, depth) | {"hinted": True}) for depth, count in depths.items())
        prompt = sum(count * cost.prose_tokens(render(name, one)) for count, one in inputs) / turns
        answer = answers[name] * cost.TOKENS_PER_WORD if name in answers else inferred
        role: RoleSettings = getattr(settings.roles, name)
        price = role.entry.batch_price if wanted.batch else 1.0
        estimates.append(
            cost.expected_cost(name, role, name, left * calls[name] * turns, (prompt, answer), used, price)
        )
    return estimates


def _turns_by_depth(wanted: ConversationsSettings) -> dict[int, int]:
    """How many turns one conversation has at each depth."""
    forks = min(wanted.branch_depth, wanted.turns - 1) if wanted.branch == "both" else 0
    return {depth: 2 ** min(depth, forks) for depth in range(wanted.turns)}
