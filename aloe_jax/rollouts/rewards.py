"""What a reply earns: the table of rewards, each a small function of the reply in its conversation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from aloe_jax.conversation import Message, Persona
from aloe_jax.roles import Cast
from aloe_jax.rollouts.settings import RewardName


class Rewarded(NamedTuple):
    """A reply that is to be rewarded, with what was said before it."""

    persona: Persona
    history: Sequence[Message]  # ends with the user message that it answers
    text: str
    tokens: int  # end of turn included
    most_tokens: int  # that it could have had
    seed: int  # of calls to models


@dataclass(frozen=True)
class RewardEntry:
    """A reward, and what must be known of it before it is computed."""

    of: Callable[[Cast, Rewarded], float]  # raises RoleError where a model gave no usable answer
    bounds: tuple[float, float]
    roles: tuple[str, ...] = ()  # that it asks
    calls: int = 0  # a distinct reply


def _judge(cast: Cast, reply: Rewarded) -> float:
    """The judge's rating of the reply in its context (arXiv 2410.03642, §4.1)."""
    return float(cast.judge(reply.persona, reply.history, reply.text, reply.seed).rating)


def _length(cast: Cast, reply: Rewarded) -> float:
    """Minus the share of its tokens that a reply used: weigh it where replies grow without need."""
    return -reply.tokens / reply.most_tokens


REWARDS: Mapping[RewardName, RewardEntry] = {
    "judge": RewardEntry(_judge, (1.0, 5.0), ("judge",), 1),
    "length": RewardEntry(_length, (-1.0, 0.0)),
}


def roles_of(rewards: Mapping[RewardName, float]) -> tuple[str, ...]:
    """The roles that these rewards ask, beside the user."""
    return tuple(dict.fromkeys(role for name in rewards for role in REWARDS[name].roles))
