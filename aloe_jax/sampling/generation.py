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
    Where log-probs were asked for, natural, one a token: `logps` are those that the model itself gives, before
    penalty, temperature and cuts; `drawn_logps` those of the distribution that the token was drawn from, after them,
    and 0 at temperature 0.
    """

    tokens: list[int]
    reason: Reason | None
    logps: list[float] | None = None
    drawn_logps: list[float] | None = None

    def followed_by(self, piece: Generation) -> Generation:
        """Both as one."""
        return Generation(
            self.tokens + piece.tokens,
            piece.reason,
            None if self.logps is None or piece.logps is None else self.logps + piece.logps,
            None if self.drawn_logps is None or piece.drawn_logps is None else self.drawn_logps + piece.drawn_logps,
        )
