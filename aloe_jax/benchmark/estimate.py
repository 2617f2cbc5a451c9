"""What a benchmark run will ask for, before it asks: calls, tokens and dollars by role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from rich.table import Table

from aloe_jax.benchmark.calibration import QUALITY, known_replies
from aloe_jax.benchmark.scoring import judge_roles
from aloe_jax.benchmark.settings import EvaluateSettings
from aloe_jax.conversation import Persona
from aloe_jax.llm import cost
from aloe_jax.llm.cost import CostEstimate
from aloe_jax.llm.ledger import Ledger, Usage
from aloe_jax.llm.settings import RoleSettings
from aloe_jax.roles import render, transcript


def estimate(settings: EvaluateSettings, personas: Sequence[Persona], ledger: Ledger | None) -> list[CostEstimate]:
    """The calls of a whole run, role by role; repairs and repeated questions come on top.

    Calls that the journal holds already are not subtracted, but what they took is how long answers are expected.
    """
    persona = cost.typical_persona(personas)
    used = ledger.usage() if ledger else {}
    found: list[CostEstimate] = []

    def ask(
        player: str,
        role: RoleSettings,
        prompt_of: str,
        calls: int,
        depths: Sequence[int],
        words: int,
        knows: bool = False,
    ) -> None:
        """Add what a player is asked with a role's prompt, at which depths (finished exchanges); `words` an answer.

        `knows` says that the whole persona is a responder's hint.
        """
        prompt = fmean(_prompt_tokens(prompt_of, persona, depth, knows) for depth in depths)
        tokens = prompt, words * cost.TOKENS_PER_WORD
        found.append(cost.expected_cost(player, role, prompt_of, calls, tokens, used))

    turns, models, cases = range(settings.turns), settings.models, len(personas)
    # The opening is the same for every model, and asked for once.
    openings = cases * (1 + len(models) * (settings.turns - 1))
    ask("roles.user", settings.roles.user, "user", openings, turns, cost.USER_WORDS)
    replies = cases * settings.turns
    if references := sum(candidate.scripted is not None for candidate in models.values()):
        calls = references * replies
        ask("roles.responder", settings.roles.responder, "responder", calls, turns, cost.REPLY_WORDS)
    for name, candidate in models.items():
        if candidate.remote is not None:
            depths = [0] if candidate.sees == "last_message" else turns
            knows = candidate.sees == "persona"
            ask(f"models.{name}.remote", candidate.remote, "responder", replies, depths, cost.REPLY_WORDS, knows)
    judging = settings.judging
    for name, judge in judge_roles(settings).items():
        player = f"judging.judges.{name}" if judging.judges else "roles.judge"
        ratings = len(models) * replies * judging.votes
        if judging.calibrate != "skip":
            known = known_replies(judge.entry.simulated, judging.calibration_personas)
            ratings += len(known) * len(QUALITY)
        ask(player, judge, "judge", ratings, turns, cost.REASON_WORDS)
        if judging.pairs:
            asked = 2 * cases * len(judging.pairs)
            ask(f"{player}, side by side", judge, "comparer", asked, [settings.turns], cost.REASON_WORDS)
    return found


def table(estimates: Sequence[CostEstimate], used: Mapping[str, Usage]) -> Table:
    """The estimates with their sum, and what the journal holds (`Ledger.usage`)."""
    stored = f"{sum(usage.calls for usage in used.values()):,} calls, ${sum(u.cost or 0 for u in used.values()):,.2f}"
    return cost.cost_table(
        estimates,
        f"This is a whole run; what the journal has ({stored}) is not asked again. Repairs and repeated questions come "
        "on top: a tenth more is usual.",
    )


def _prompt_tokens(role: str, persona: Persona, depth: int, knows: bool) -> float:
    inputs = cost.typical_inputs(persona, depth)
    inputs["hinted"] = inputs["faithful"] = knows
    if role == "comparer":
        inputs["first"] = inputs["second"] = transcript(cost.typical_history(depth))
    return cost.prose_tokens(render(role, inputs))
