"""How a role reaches its model: the key from the environment, and the words for what went wrong on the way."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from http import HTTPStatus

from aloe_jax import config
from aloe_jax.errors import AloeError

KEY_VARIABLES = {
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "genai": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "openai": ("OPENAI_API_KEY",),
}
_LONGEST_MESSAGE = 600  # characters of a server's message that are passed on
# Servers repeat keys, whole or in part: Google's and OpenAI's forms, and what stands in a URL or a header.
_KEYLIKE = re.compile(
    r"AIza[\w-]{10,}|\bsk-[\w*.-]{6,}|(?<=[?&]key=)[^&\s\"']+|(?i:(?<=bearer ))[^\s\"']+|(?i:(?<=key provided: ))\S+"
)


class Access:
    """The key of a role and its name in messages. Neither its repr nor any text made here shows the key."""

    def __init__(self, role: config.Role, name: str) -> None:
        """Raises AloeError when the key that `role` needs is not in the environment or cannot be one."""
        self.role, self.name = role, name
        self.variable, self.key = _find_key(role, name)

    def message(self, text: str) -> str:
        """`text` as one line that names the role, the model and the provider, without the key."""
        return f"roles.{self.name}: {self.role.model} ({self.role.provider}): {self.scrub(text)}"

    def scrub(self, text: str) -> str:
        """`text` on one line, cut to a sensible length, without anything that is or looks like a key."""
        if self.key:
            text = text.replace(self.key, "[key]")
        text = " ".join(_KEYLIKE.sub("[key]", text).split())
        return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]} …"

    def refusal(self, status: int, text: str) -> AloeError:
        """The error for an answer that no other attempt would change, with what may mend it."""
        fix = ""
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) or "API key" in text:
            fix = f"; {self._key_fix()}"
        elif status == HTTPStatus.NOT_FOUND:
            place = " and its endpoint" if self.role.endpoint else ""
            fix = f"; check the model name, roles.{self.name}.model{place}"
        return AloeError(self.message(f"{_phrase(status)}: {text.rstrip(' .')}") + fix)

    def _key_fix(self) -> str:
        if self.variable:
            return f"check the key in the environment variable {self.variable}"
        if self.role.project is not None:
            return f"check that `gcloud auth application-default login` was done and may use {self.role.project}"
        return f"give the environment variable with its key as roles.{self.name}.key_variable"


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _find_key(role: config.Role, name: str) -> tuple[str, str]:
    """The (variable, key) of a role; both are "" where no key is needed."""
    if role.project is not None:  # Vertex AI asks Google Cloud's own credentials
        return "", ""
    variables: Sequence[str] = (role.key_variable,) if role.key_variable else KEY_VARIABLES[role.provider]
    if role.provider == "openai" and role.endpoint is not None and role.key_variable is None:
        return "", ""  # OpenAI's key is nothing to show to another server
    for variable in variables:
        key = os.environ.get(variable, "").strip()
        if key and key.isascii() and key.isprintable() and " " not in key:
            return variable, key
        if key:
            raise AloeError(
                f"roles.{name}: the environment variable {variable} holds no key (white space or letters beyond "
                "ASCII in it); set it anew"
            )
    others = "".join(f" (or {variable})" for variable in variables[1:])
    raise AloeError(
        f"roles.{name}: provider {role.provider} needs a key; set the environment variable {variables[0]}{others}, "
        "or use roles.provider=scripted, which simulates one offline"
    )
