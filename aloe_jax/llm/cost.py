"""What calls will cost, before anything is asked: tokens and dollars of a role, and the table that a dry run prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from aloe_jax.conversation import Message, Persona
from aloe_jax.llm.ledger import Usage
from aloe_jax.llm.settings import RoleSettings

# Words of a text where the journal holds none to measure.
USER_WORDS, REPLY_WORDS, REASON_WORDS = 30, 45, 25
TOKENS_PER_WORD = 1.35  # of English prose
ENOUGH = 20  # calls of a role from which their mean is trusted rather than a guess


@dataclass(frozen=True)
class CostEstimate:
    """Expected use of one player in one role."""

    player: str
    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost: float | None  # US dollars; None without a price
    measured: bool  # output tokens per call are the mean of earlier calls, not a guess


def expected_cost(
    player: str,
    settings: RoleSettings,
    role: str,
    calls: int,
    tokens: tuple[float, float],
    used: Mapping[str, Usage],
    price: float = 1.0,
) -> CostEstimate:
    """The cost of `calls` calls of `role`, whose prompts and answers are expected to have so many `tokens` on average.

    Where the journal has enough calls of that role (`used`: `Ledger.usage`), its mean stands in for the answers.
    `price` is the share of the settings' price that is paid.
    """
    model = settings.provider if settings.entry.simulated else settings.model or "(no model named)"
    prompt, answer = tokens
    seen = used.get(f"{model}/{role}")
    measured = seen is not None and seen.calls >= ENOUGH and seen.output_tokens > 0
    if seen is not None and measured:
        answer = seen.output_tokens / seen.calls
    elif settings.thinking_budget:
        answer += settings.thinking_budget
    read, written = round(calls * prompt), round(calls * answer)
    cost = None if settings.price is None else price * settings.price.cost(read, written)
    return CostEstimate(player, model, calls, read, written, cost if settings.entry.needs_price else 0.0, measured)


def prose_tokens(texts: Iterable[str]) -> float:
    """About how many tokens some English texts have together."""
    return sum(len(text.split()) for text in texts) * TOKENS_PER_WORD


def typical_inputs(persona: Persona, exchanges: int) -> dict[str, object]:
    """What a role's prompt is rendered from after so many finished exchanges of usual length."""
    user, reply = _words(USER_WORDS), _words(REPLY_WORDS)
    return {
        "profile": persona.profile,
        "personality": persona.personality,
        "history": typical_history(exchanges),
        "messages": [user] * (exchanges + 1),
        "hinted": False,
        "faithful": False,
        "reply": reply,
        "first": reply,
        "second": reply,
    }


def typical_history(exchanges: int) -> list[Message]:
    """So many finished exchanges of usual length."""
    user: Message = {"role": "user", "content": _words(USER_WORDS)}
    reply: Message = {"role": "assistant", "content": _words(REPLY_WORDS)}
    return [user, reply] * exchanges


def _words(count: int) -> str:
    return " ".join(["word"] * count)


def typical_persona(personas: Sequence[Persona]) -> Persona:
    """The persona of median length."""
    return sorted(personas, key=lambda one: len(one.profile) + len(one.personality))[len(personas) // 2]


def cost_table(estimates: Sequence[CostEstimate], note: str) -> Table:
    """The estimates with their sum; the caption ends in `note`."""
    shown = Table(
        title="Dry run: what is expected, nothing was asked",
        title_justify="left",
        caption="Output tokens per call are guessed (g, thinking not counted) or the mean of earlier calls (m). "
        + note,
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
