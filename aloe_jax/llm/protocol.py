"""What a language model is to this project: something that completes one request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from aloe_jax.errors import AloeError

Outcome = Literal["ok", "blocked", "empty", "truncated", "unreadable"]


@dataclass(frozen=True)
class Request:
    """One question to a language model in a role.

    `inputs` is what the prompt was rendered from: remote models read `system` and `prompt`, the scripted and
    the policy provider read `inputs`. `schema` is the JSON schema that the reply must satisfy.
    """

    role: str
    inputs: Mapping[str, object]
    system: str
    prompt: str
    schema: Mapping[str, object]
    temperature: float
    seed: int
    thinking_budget: int | None = None

    def key(self, model: str) -> str:
        """Content key: the same question to the same model has the same key, whatever the order of work."""
        content = [model, self.role, self.system, self.prompt, self.schema, self.temperature, self.seed]
        if self.thinking_budget is not None:  # so that what was asked before there was one keeps its key
            content.append({"thinking_budget": self.thinking_budget})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Completion:
    """What came back, and what it took.

    Tokens are 0 where the provider does not say; thinking counts as output. Anything but "ok" is a finished
    call, too: it was perhaps paid for, and the same question with the same seed is not asked again; but it is no
    answer. `detail` then says why, in the server's words. "unreadable": text that no file can hold, or an answer that
    the server itself threw away because it was not of the form that was asked for.
    """

    text: str
    input_tokens: int = 0
    output_tokens: int = 0
    outcome: Outcome = "ok"
    detail: str = ""
    cost: float | None = None  # US dollars; None where no price is configured
    attempts: int = 1


class LLM(Protocol):
    """A language model. `complete` may be called from several threads."""

    name: str  # recorded in the journal and part of every content key, for instance "gemini-3.5-flash-lite"

    def complete(self, request: Request) -> Completion:
        """Answer one request.

        Raises UnavailableError when the server was overloaded or out of reach in every attempt, and any other
        AloeError when asking again would not help (a wrong key, an unknown model, a malformed request).
        """
        ...


class UnavailableError(AloeError):
    """No answer in all attempts: nothing was wrong with the request, and a later run may succeed."""


class PendingError(Exception):
    """The answer will come with a batch: the caller asks again then."""
