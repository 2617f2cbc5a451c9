"""A reply as it was drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reason = Literal["stop", "max_new_tokens", "length"]


@dataclass(frozen=True)
class Generation:
    """New tokens of one conversation, and why there are no more.

    `reason`: "stop" (the last token is one of the stop tokens), "max_new_tokens" (as many as were asked for), "length"
    (the conversation has max_length tokens: nothing is dropped from its start to make room), None (more will come).
    `logps`, where they were asked for: of each token the log-probability that the model itself gives it, before
    temperature, penalty and cuts.
    """

    tokens: list[int]
    reason: Reason | None
    logps: list[float] | None = None

    def followed_by(self, piece: Generation) -> Generation:
        """Both as one."""
        logps = None if self.logps is None or piece.logps is None else self.logps + piece.logps
        return Generation(self.tokens + piece.tokens, piece.reason, logps)
