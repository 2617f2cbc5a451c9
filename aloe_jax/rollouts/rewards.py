"""What a reply earns: the table of rewards, each a small function of the reply in its conversation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

from aloe_jax.conversation import Message, Persona
from aloe_jax.rollouts.questions import Questions
from aloe_jax.rollouts.quoting import leaked, recovered
from aloe_jax.rollouts.settings import RewardName, RLSettings


class Rewarded(NamedTuple):
    """A reply that is to be rewarded, with what was said before it."""

    conversation: str  # its id
    persona: Persona
    history: Sequence[Message]  # ends with the user message that it answers
    text: str
    tokens: int  # end of turn included
    ended: bool  # with an end of turn
    most_tokens: int  # that it could have had
    late_tokens: int  # the last so many of them cost something by `overlong`
    seed: int  # of questions about this reply
    answer: Future[str] | None = None  # what the user says to it, where a reward reads that

    @property
    def said(self) -> list[str]:
        """The user's messages before the reply."""
        return [message["content"] for message in self.history if message["role"] == "user"]


@dataclass(frozen=True)
class RewardEntry:
    """A reward, and what must be known of it before it is computed."""

    of: Callable[[Questions, Rewarded], float]  # raises RoleError where a model gave no usable answer
    bounds: tuple[float, float]
    roles: tuple[str, ...] = ()  # that it asks, beside the user
    calls: int = 0  # to them for a distinct reply
    once: int = 0  # and once a conversation
    answered: bool = False  # whether it reads what the user says to the reply: one more call for a distinct reply


def _judge(ask: Questions, reply: Rewarded) -> float:
    """The judge's rating of the reply in its context (arXiv 2410.03642, §4.1)."""
    return float(ask.rating(reply.persona, reply.history, reply.text, reply.seed))


def _length(ask: Questions, reply: Rewarded) -> float:
    """Minus the share of its tokens that a reply used: weigh it where replies grow without need."""
    return -reply.tokens / reply.most_tokens


def _belief(ask: Questions, reply: Rewarded) -> float:
    """How much more of the persona is known after the user's answer to the reply than before it.

    The potential of a history is the share of the persona that the inducer recovers from the user's messages in it
    (`quoting.recovered`), and a turn earns the difference (potential-based, after arXiv 2504.03206). In a conversation
    the inducer's answer depends on the messages alone, so differences add up to the last potential minus the first.
    """
    assert reply.answer is not None
    after = [*reply.said, reply.answer.result()]
    before, now = (
        recovered(ask.induced(reply.conversation, reply.persona, said), reply.persona) for said in (reply.said, after)
    )
    return now - before


def _leakage(ask: Questions, reply: Rewarded) -> float:
    """Minus the share of the reply's sentences that repeat what only the description of the user says.

    That is no inference: it was learned by heart from training personas. A measure of our own, see `quoting.leaked`.
    """
    return 0.0 - leaked(reply.text, reply.persona, reply.said)


def _overlong(ask: Questions, reply: Rewarded) -> float:
    """0 up to the last part of what a reply may have, there falling linearly to -1 (DAPO, arXiv 2503.14476, eq. 13).

    -1 where the reply was cut.
    """
    if not reply.ended:
        return -1.0
    return min(0.0, (reply.most_tokens - reply.late_tokens - reply.tokens) / reply.late_tokens)


REWARDS: Mapping[RewardName, RewardEntry] = {
    "judge": RewardEntry(_judge, (1.0, 5.0), ("judge",), calls=1),
    "length": RewardEntry(_length, (-1.0, 0.0)),
    "belief": RewardEntry(_belief, (-1.0, 1.0), ("inducer",), calls=1, once=1, answered=True),
    "leakage": RewardEntry(_leakage, (-1.0, 0.0)),
    "overlong": RewardEntry(_overlong, (-1.0, 0.0)),
}


def roles_of(rewards: Mapping[RewardName, float]) -> tuple[str, ...]:
    """The roles that these rewards ask, beside the user."""
    return tuple(dict.fromkeys(role for name in rewards for role in REWARDS[name].roles))


def read_answers(rewards: Mapping[RewardName, float]) -> bool:
    """Whether one of these rewards reads what the user says to a reply."""
    return any(REWARDS[name].answered for name in rewards)


def calls_by_role(rl: RLSettings, conversations: int, group: int) -> dict[str, int]:
    """At most so many calls of every role for conversations with groups of `group` replies, all in full.

    They may end early, and equal replies of a group are rated once. With groups of 1 nothing is looked ahead of.
    """
    groups, ahead = (rl.groups, rl.lookahead) if group > 1 else (rl.turns, 0)
    replies = groups * group
    # Looking ahead, the user answers every reply that another one follows; rewards may read the answer to the last one.
    answers = replies * (ahead + read_answers(rl.weights))
    # Where replies of a group are answered, the conversation goes on with the answer that there is.
    found = {"user": conversations * (1 + answers if answers else groups)}
    for name in rl.weights:
        entry = REWARDS[name]
        for role in entry.roles:
            share = math.ceil(replies * (1 + ahead) * entry.calls / len(entry.roles)) + entry.once
            found[role] = found.get(role, 0) + conversations * share
    return found
