"""Replies drawn in groups: the prompt of a group is read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from aloe_jax.data.template import ChatTemplate
from aloe_jax.rollouts.drawing import Drawing
from aloe_jax.rollouts.rollout import Sibling
from aloe_jax.sampling.generation import Generation
from aloe_jax.sampling.sampler import Sampler
from aloe_jax.sampling.session import Session
from aloe_jax.sampling.settings import DrawSettings
from aloe_jax.sampling.sibling_session import SiblingSession


class Prompt(NamedTuple):
    """What is to be replied to, once with every seed."""

    number: int  # its conversation in the session
    tokens: Sequence[int]  # of the whole path
    seeds: Sequence[int]


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

    def groups(self, session: SiblingSession, prompts: Sequence[Prompt], drawing: Drawing) -> list[tuple[Sibling, ...]]:
        """The replies to every prompt, in one session; the prompts have equally many seeds.

        What is drawn depends on a prompt and a seed alone.
        """
        if not prompts:
            return []
        for prompt in prompts:
            session.replace(prompt.number, prompt.tokens)
        draw = self._settings
        with drawing.phase("generating"):
            groups = session.sibling_replies(
                draw.max_new_tokens,
                draw.temperature,
                [prompt.seeds for prompt in prompts],
                [prompt.number for prompt in prompts],
                top_k=draw.top_k,
                top_p=draw.top_p,
                stop=self._template.stop,
                logps=True,
            )
        return [tuple(map(self._sibling, group)) for group in groups]

    def single(self, session: Session, prompts: Sequence[Prompt], drawing: Drawing) -> list[Sibling]:
        """One reply to every prompt, whose `seeds` is one: what a group of one would be, without `logps`."""
        for prompt in prompts:
            session.replace(prompt.number, prompt.tokens)
        draw = self._settings
        with drawing.phase("generating"):
            made = session.replies(
                draw.max_new_tokens, draw.temperature, draw.top_k, draw.top_p,
                [seed for prompt in prompts for seed in prompt.seeds], self._template.stop,
                among=[prompt.number for prompt in prompts],
            )  # fmt: skip
        return list(map(self._sibling, made))

    def _sibling(self, reply: Generation) -> Sibling:
        text = self._template.decode(reply.tokens)
        return Sibling(tuple(reply.tokens), tuple(reply.logps or ()), text, reply.reason == "stop")
