"""Replies drawn in groups: the prompt of a group is read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from aloe_jax.data.template import ChatTemplate
from aloe_jax.rollouts.rollout import Sibling
from aloe_jax.sampling.sampler import Sampler
from aloe_jax.sampling.session import Session
from aloe_jax.sampling.settings import DrawSettings


class Prompt(NamedTuple):
    """What is to be replied to, once with every seed."""

    number: int  # its conversation in the session
    tokens: Sequence[int]  # of the whole path
    seeds: Sequence[int]


class DrawnSiblings(NamedTuple):
    """The replies to a prompt."""

    numbers: list[int]  # of every reply, its conversation in the session; the first is the prompt's own
    siblings: tuple[Sibling, ...]


class Drawer:
    """Draws replies with one sampler, as the settings say."""

    def __init__(self, settings: DrawSettings, sampler: Sampler, template: ChatTemplate, length: int) -> None:
        """`length`: tokens that a conversation of a session may have."""
        self._settings, self._template = settings, template
        self._longest = min(sampler.max_length, length)

    @property
    def room(self) -> int:
        """Tokens that a prompt with its path may have."""
        return self._longest - self._settings.max_new_tokens - 1

    def draw(self, session: Session, prompts: Sequence[Prompt]) -> list[DrawnSiblings]:
        """The replies to prompts in one session; what is drawn depends on a prompt and a seed alone."""
        if not prompts:
            return []
        draw = self._settings
        numbers: list[int] = []
        for prompt in prompts:
            session.replace(prompt.number, prompt.tokens)
        for prompt in prompts:
            numbers += [prompt.number, *session.fork(prompt.number, len(prompt.seeds) - 1)]
        made = session.replies(
            draw.max_new_tokens, draw.temperature, draw.top_k, draw.top_p,
            [seed for prompt in prompts for seed in prompt.seeds], self._template.stop, among=numbers, logps=True,
        )  # fmt: skip
        siblings = [
            Sibling(
                tuple(reply.tokens), tuple(reply.logps or ()), self._template.decode(reply.tokens),
                reply.reason == "stop",
            )
            for reply in made
        ]  # fmt: skip
        found, start = [], 0
        for prompt in prompts:
            part = slice(start, start := start + len(prompt.seeds))
            found.append(DrawnSiblings(numbers[part], tuple(siblings[part])))
        return found
