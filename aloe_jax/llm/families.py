"""Families of language models, by name, for warnings of self-preference bias.

Models rate their own text higher than people do ("LLM Evaluators Recognize and Favor Their Own Generations", arXiv
2404.13076), and one model in several roles shares its blind spots with itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from aloe_jax.llm.registry import simulates
from aloe_jax.llm.settings import RoleSettings

# Words that a name begins with, or has after a sign -> the family, where that is not the word itself.
_WORDS = {
    **dict.fromkeys(("mixtral", "ministral", "codestral", "magistral", "devstral", "pixtral"), "mistral"),
    **dict.fromkeys(("chatgpt", "o1", "o3", "o4"), "gpt"),
    **dict.fromkeys(("qwq", "qvq"), "qwen"),
    **dict.fromkeys(("codellama", "tinyllama"), "llama"),
    **{
        name: name
        for name in (
            *("claude", "command", "deepseek", "falcon", "gemini", "gemma", "glm", "gpt", "granite", "grok", "kimi"),
            *("llama", "minimax", "mistral", "nemotron", "nova", "olmo", "phi", "qwen", "smollm", "yi"),
        )
    },
}
_WORD = re.compile(rf"(?<![a-z0-9])({'|'.join(sorted(_WORDS, key=len, reverse=True))})(?![a-z])")


def known_family(name: str) -> str | None:
    """The family of a model's name or directory (`meta-llama/Llama-3.1-8B` is "llama"); None where none is known.

    The last part of the name that has one decides, and in it the first word: a distilled model is its maker's.
    """
    for part in reversed(name.lower().split("/")):
        if found := _WORD.search(part):
            return _WORDS[found[1]]
    return None


def family(role: RoleSettings) -> str | None:
    """The family of a role's model; an unknown model is a family of its own. None where a script plays it."""
    return family_of_name(None if role.entry.simulated else role.model)


def family_of_name(model: str | None) -> str | None:
    """The same by the name of a model, as data sets and results store it; None for a script, or without a name."""
    if model is None or simulates(model):
        return None
    return known_family(model) or model.lower()


def self_preference_warning(who: str, own: str | None, others: Mapping[str, str | None], remedy: str) -> str | None:
    """A sentence where `who`, a rater of the family `own`, shares it with some of `others` (name -> family); else None.

    `remedy` says what to set instead.
    """
    same = [name for name, theirs in others.items() if theirs is not None and theirs == own]
    if not same:
        return None
    names = same[0] if len(same) == 1 else f"{', '.join(same[:-1])} and {same[-1]}"
    return (
        f"{who} is of the same family as {names} ({own}): models rate text from their own family higher "
        f"(self-preference bias) and share its blind spots; {remedy}"
    )
