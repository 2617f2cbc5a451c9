"""Who talks to our policy in the benchmark: a user with scripted messages and a judge that rates by a rule.

Both are a provider of the run, so that their calls take the way of all calls: prompt, journal, form of the answer.
"""

from __future__ import annotations

import json

from aloe_jax.llm.protocol import Completion, Request
from aloe_jax.llm.registry import ProviderEntry
from aloe_jax.llm.settings import RoleSettings
from tests.benchmarks.peers.rl_task import rating

PROVIDER = "benchmark"
ENTRY = ProviderEntry(PROVIDER, f"{__name__}:Players", remote=False, needs_price=False, simulated=True)


class Players:
    """Plays the user, whose profile has a message a line, and the judge."""

    name = PROVIDER

    def __init__(self, role: RoleSettings | None = None) -> None:
        """No setting matters."""

    def complete(self, request: Request) -> Completion:
        """The message of this turn, or the rating of the reply."""
        if request.role == "judge":
            return Completion(json.dumps({"rating": rating(str(request.inputs["reply"]))}))
        history, profile = request.inputs["history"], str(request.inputs["profile"])
        assert isinstance(history, list)
        return Completion(json.dumps({"message": profile.splitlines()[len(history) // 2]}))
