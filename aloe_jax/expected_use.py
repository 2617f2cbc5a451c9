"""What language models will be asked for, before they are asked: calls, tokens, dollars, and the table of a dry run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aloe_jax.conversation import Message
from aloe_jax.llm.settings import RoleSettings

if TYPE_CHECKING:
    from rich.table import Table

    from aloe_jax.llm.ledger import Usage

# Words of a text where the journal holds none to measure.
USER_WORDS, REPLY_WORDS, REASON_WORDS = 30, 45, 25
USER_TEXT, REPLY_TEXT = (" ".join(["word"] * words) for words in (USER_WORDS, REPLY_WORDS))
TOKENS_PER_WORD = 1.35  # of English prose
ENOUGH = 20  # calls of a role from which their mean is trusted rather than a guess


@dataclass(frozen=True)
class ExpectedUse:
    """Expected use of one model in one role."""

    player: str
    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost: float | None  # US dollars; None without a price
    measured: bool  # output tokens per call are the mean of earlier calls, not a guess


def expected_use(
    player: str, settings: RoleSettings, role: str, calls: int, prompt: float, reply: float, used: Mapping[str, Usage]
) -> ExpectedUse:
    """Of `calls` with `role`'s prompt of so many tokens; `reply` tokens are a guess, which `used` may replace."""
    model = "scripted" if settings.provider == "scripted" else settings.model or "(no model named)"
    seen = used.get(f"{model}/{role}")
    measured = seen is not None and seen.calls >= ENOUGH and seen.output_tokens > 0
    if seen is not None and measured:
        reply = seen.output_tokens / seen.calls
    elif settings.thinking_budget:
        reply += settings.thinking_budget
    read, written = round(calls * prompt), round(calls * reply)
    cost = None if settings.price is None else settings.price.cost(read, written)
    if settings.provider in ("policy", "scripted"):
        cost = 0.0
    return ExpectedUse(player, model, calls, read, written, cost, measured)


def typical_history(turns: int) -> list[Message]:
    """The messages of a dialogue of texts of the usual length."""
    history: list[Message] = []
    for _ in range(turns):
        history += [{"role": "user", "content": USER_TEXT}, {"role": "assistant", "content": REPLY_TEXT}]
    return history


def prompt_tokens(role: str, inputs: Mapping[str, object]) -> float:
    """Tokens of a role's prompt with these inputs, estimated from its words."""
    from aloe_jax.roles import render

    return sum(len(text.split()) for text in render(role, inputs)) * TOKENS_PER_WORD


def dry_run_table(found: Sequence[ExpectedUse], caption: str) -> Table:
    """All of them with their sum."""
    from rich.table import Table

    shown = Table(
        title="Dry run: what is expected, nothing was asked",
        title_justify="left",
        caption=caption,
        caption_justify="left",
    )
    for number, head in enumerate(("role", "model", "calls", "tokens in", "out", "", "cost")):
        shown.add_column(head, justify="right" if number >= 2 else "left")
    for one in found:
        shown.add_row(
            *(one.player, one.model, f"{one.calls:,}", f"{one.input_tokens:,}", f"{one.output_tokens:,}"),
            *("m" if one.measured else "g", "no price" if one.cost is None else f"${one.cost:,.2f}"),
        )
    if len(found) > 1:
        costs = [one.cost for one in found]
        total = "no price" if None in costs else f"${sum(cost or 0 for cost in costs):,.2f}"
        sums = (sum(getattr(one, name) for one in found) for name in ("calls", "input_tokens", "output_tokens"))
        shown.add_row("all", "", *(f"{number:,}" for number in sums), "", total)
    return shown
