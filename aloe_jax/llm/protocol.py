"""What a language model is to this project: something that completes one request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Request:
    """One question to a language model in a role.

    `inputs` is what the prompt was rendered from: remote models read `system` and `prompt`, the scripted
    provider reads `inputs`. `schema` is the JSON schema that the reply must satisfy.
    """

    role: str
    inputs: Mapping[str, Any]
    system: str
    prompt: str
    schema: Mapping[str, Any]
    temperature: float
    seed: int

    def key(self, model: str) -> str:
        """Content key: the same question to the same model has the same key, whatever the order of work."""
        content = [model, self.role, self.system, self.prompt, self.schema, self.temperature, self.seed]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Completion:
    """The text that came back, with what it cost in tokens (0 where the provider does not say)."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0


class LLM(Protocol):
    """A language model. `complete` may be called from several threads."""

    name: str  # recorded in the journal, for instance "scripted"

    def complete(self, request: Request) -> Completion:
        """Answer one request. Raises AloeError when no answer can be had."""
        ...
