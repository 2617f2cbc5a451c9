"""Whether the conversations of on-policy training fit rows and model at all, before a call is paid for."""

from __future__ import annotations

from aloe_jax.conversation import Message
from aloe_jax.data.template import ChatTemplate
from aloe_jax.errors import AloeError
from aloe_jax.models.spec import ModelSpec
from aloe_jax.training.settings import TrainSettings

SHORTEST = "Hi."  # of a message
CLOSED = 2  # tokens of the shortest reply in a tree: a token of its own, and what closes its turn


def check_lengths(settings: TrainSettings, spec: ModelSpec, template: ChatTemplate) -> None:
    """Raise AloeError where conversations could not have `rl.turns` turns even if all their messages were short.

    A turn is drawn only where the longest replies that it might have still fit, those of all branches of a
    conversation together: see `RolloutCollector`.
    """
    rl = settings.rl
    first, later = _prompts(template)
    reply, before = rl.draw.max_new_tokens + 1, rl.turns - 1
    prompts = first + before * later
    tree = sum(
        rl.lines(turn) * ((later if turn else first) + rl.group * (reply if turn == before else CLOSED))
        for turn in range(rl.turns)
    )
    if tree > settings.data.row_length:
        lines = rl.lines(before)
        groups, branches = ("last group", "") if lines == 1 else (f"last {lines} groups", ", rl.branches")
        raise AloeError(
            f"data.row_length: a conversation of {rl.turns} turns (rl.turns{branches}) needs {tree:,} tokens at least, "
            f"with its {groups} of {rl.group} replies (rl.group) of up to {rl.draw.max_new_tokens} tokens "
            f"(rl.draw.max_new_tokens), a row has {settings.data.row_length:,}; raise it, or lower them"
        )
    path = prompts + CLOSED * before + reply
    if path > spec.max_length:
        raise AloeError(
            f"rl.turns: a conversation of {rl.turns} turns needs at least {path:,} tokens before its last reply of up "
            f"to {rl.draw.max_new_tokens} (rl.draw.max_new_tokens) is drawn, the model's context has "
            f"{spec.max_length:,}; lower them"
        )


def _prompts(template: ChatTemplate) -> tuple[int, int]:
    """Tokens from the end of a reply to where the next one begins, around a short message: of the first turn, later."""
    history: list[Message] = [{"role": "user", "content": SHORTEST}]
    first = len(template.continuation(history))
    history += [{"role": "assistant", "content": SHORTEST}, {"role": "user", "content": SHORTEST}]
    return first, len(template.continuation(history))
