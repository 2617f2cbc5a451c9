"""From a role's settings to the language model that plays it."""

from __future__ import annotations

from aloe_jax import config
from aloe_jax.llm.protocol import LLM


def language_model(role: config.Role) -> LLM:
    """The model that `role.provider` names. `scripted` is the simulation that is part of this package."""
    match role.provider:
        case "scripted":
            from aloe_jax.llm.scripted import Scripted

            return Scripted()
