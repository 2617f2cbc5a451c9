"""How long the calls of a step to users and judges take, where language models over a network play them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from aloe_jax.llm.settings import RoleSettings
from aloe_jax.rollouts.rewards import calls_by_role, read_answers
from aloe_jax.training.settings import TrainSettings


@dataclass(frozen=True)
class RemoteCalls:
    """Of one step; upper bounds of calls, and the time that they take if each takes `latency` seconds."""

    calls: dict[str, int]  # by role
    latency: float
    seconds: float


def remote_calls(settings: TrainSettings, latency: float) -> RemoteCalls | None:
    """The calls of a step that are waited for; None where there are none.

    Users and judges are asked `rl.concurrency` at a time each, side by side; of a conversation the user's messages
    follow each other, the first and, with `rl.lookahead`, so many answers a turn, and at its end the last reply is
    rated or answered; a model's limit of requests a minute holds for all roles that it plays.
    """
    rl = settings.rl
    roles: dict[str, RoleSettings] = {name: getattr(settings.roles, name) for name in calls_by_role(rl, 1, 1)}
    calls = {
        name: count for name, count in calls_by_role(rl, rl.conversations, rl.group).items() if roles[name].entry.remote
    }
    if not calls:
        return None
    users = calls.get("user", 0)
    judged = sum(calls.values()) - users
    # The first answer of a turn is the next message, which is not asked for again.
    messages = 1 + rl.turns * rl.lookahead if rl.lookahead else rl.turns
    chain = messages * bool(users) + bool(judged or (users and read_answers(rl.weights)))
    times = [latency * users / rl.concurrency, latency * judged / rl.concurrency, latency * chain]
    limited: dict[tuple[str, str | None, str | None], int] = defaultdict(int)
    for name, count in calls.items():
        role = roles[name]
        key = role.provider, role.model, role.endpoint
        limited[key] += count
        if role.requests_per_minute is not None:
            times.append(60 * limited[key] / role.requests_per_minute)
    return RemoteCalls(calls, latency, max(times))
