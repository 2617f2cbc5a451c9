"""How a role reaches its model: the key from the environment, and the words for what went wrong on the way."""

from __future__ import annotations

import base64
import os
import re
from dataclasses import replace
from http import HTTPStatus
from urllib.parse import quote, urlsplit

from aloe_jax.errors import AloeError
from aloe_jax.llm.error_response import plain
from aloe_jax.llm.protocol import Completion
from aloe_jax.llm.settings import RoleSettings

_LONGEST_MESSAGE = 600  # characters of a server's message that are passed on
_KEY_PART = 6  # so many characters of a key in a row are taken for a part of it, if it is long enough
_LONGEST_HOST = 253  # characters that a name in the net may have
_CHANCE = 10  # characters from which on a key's parts are looked for: "EMPTY" or "token" are words, too
# What gateways answer beyond the standard.
_GATEWAYS = {
    520: "Unknown Error", 521: "Web Server Is Down", 522: "Connection Timed Out", 523: "Origin Is Unreachable",
    524: "A Timeout Occurred", 525: "TLS Handshake Failed", 526: "Invalid Certificate", 529: "Overloaded",
    530: "Site Is Frozen",
}  # fmt: skip
# Servers repeat keys, whole or in part: Google's and OpenAI's forms, and what stands in a URL or a header.
_KEYLIKE = re.compile(
    r"AIza[\w-]{10,}|\bsk-[\w*.-]{6,}|(?<=[?&]key=)[^&\s\"']+|(?i:(?<=bearer ))[^\s\"']+|(?i:(?<=key provided: ))\S+"
)


class Access:
    """The key of a role and its name in messages. Neither its repr nor any text built from it shows the key."""

    def __init__(self, role: RoleSettings, name: str) -> None:
        """Raises AloeError when the role's model or address can be none, or its key is none or not there."""
        _check_address(role.endpoint, name)
        _check_model(role, name)
        self.role, self.name = role, name
        self.variable, self.key = _find_key(role, name)

    def message(self, text: str) -> str:
        """`text` as one line that names the role, the model and the provider, without the key."""
        return f"roles.{self.name}: {self.role.model} ({self.role.provider}): {self.scrub(text)}"

    def scrub(self, text: str) -> str:
        """`text` on one line, cut to a sensible length, without anything that is or looks like a key."""
        text = self._without_parts(text[: 20 * _LONGEST_MESSAGE])
        return plain(_KEYLIKE.sub("[key]", text), _LONGEST_MESSAGE)

    def clean(self, completion: Completion) -> Completion:
        """An answer without the key, which some servers show to their models or repeat in their reasons."""
        text = completion.text
        if len(self.key) >= 8:
            text = text.replace(self.key, "[key]")
        return replace(completion, text=text, detail=self.scrub(completion.detail))

    def _without_parts(self, text: str) -> str:
        """`text` without the key: whole, in the forms of addresses and headers, backwards, and cut."""
        if not self.key:
            return text
        text = text.replace(self.key, "[key]")
        if len(self.key) < _CHANCE:
            return text
        encoded = base64.b64encode(self.key.encode()).decode()
        for form in (self.key, self.key[::-1], quote(self.key, safe=""), encoded):
            parts = {form[start : start + _KEY_PART] for start in range(len(form) - _KEY_PART + 1)}
            hits = [start for start in range(len(text)) if text[start : start + _KEY_PART] in parts]
            # The first of each run of neighbours.
            starts = [hit for before, hit in zip([-2, *hits], hits, strict=False) if hit != before + 1]
            for start in reversed(starts):
                end = start + _KEY_PART
                while text[end - _KEY_PART + 1 : end + 1] in parts and end < len(text):
                    end += 1
                text = f"{text[:start]}[key]{text[end:]}"
        return text

    def redirected(self, status: int, target: str) -> AloeError:
        """The error for a server that sends requests on: their key would go with them."""
        return AloeError(
            self.message(f"{phrase(status)}: the server sends requests on to {target}, and nothing was sent there")
            + f"; if that is the right one, give its address as roles.{self.name}.endpoint"
        )

    def no_room(self, status: int, text: str) -> AloeError:
        """The error for a prompt and a reply that do not fit into the model together."""
        limit = self.role.max_output_tokens
        return AloeError(
            self.message(f"{phrase(status)}: {text.rstrip(' .')}")
            + f"; prompt and reply must fit into the model's context: lower roles.{self.name}.max_output_tokens, which "
            f"is {limit:,}, or take a model of a longer context"
        )

    def refusal(self, status: int, text: str) -> AloeError:
        """The error for an answer that no other attempt would change, with what may mend it."""
        fix = ""
        text = text.rstrip(" .")
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) or "API key" in text:
            fix = f"; {self._key_fix()}"
        elif status == HTTPStatus.NOT_FOUND:
            endpoint = " and its endpoint" if self.role.endpoint else ""
            fix = f"; check the model name, roles.{self.name}.model{endpoint}"
        elif self.role.thinking_budget is not None and "budget" in text.lower():
            fix = f"; change roles.{self.name}.thinking_budget"
        elif status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY) and "temperature" in text.lower():
            fix = f"; change roles.{self.name}.temperature, which is {self.role.temperature:g}"
        return AloeError(self.message(f"{phrase(status)}: {text}" if text else phrase(status)) + fix)

    def _key_fix(self) -> str:
        if self.variable:
            return f"check the key in the environment variable {self.variable}"
        if self.role.project is not None:
            return f"check that `gcloud auth application-default login` was done and may use {self.role.project}"
        return f"give the environment variable with its key as roles.{self.name}.key_variable"


def phrase(status: int) -> str:
    """A status with its words, where it has any."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        name = _GATEWAYS.get(status)
        return f"{status} {name}" if name else str(status)


def _check_address(endpoint: str | None, name: str) -> None:
    if endpoint is None:
        return
    fault = "" if endpoint.startswith(("http://", "https://")) else "it begins with http:// or https://"
    try:
        parts = urlsplit(endpoint)
        host = parts.hostname or ""
        if not fault and (not host or parts.port == 0 or len(host.encode("idna")) > _LONGEST_HOST or "%" in host):
            fault = "after http:// or https:// comes a host, with or without a port"
    except ValueError:  # UnicodeError is one
        fault = fault or "its host or its port is not valid"
    if fault:
        shown = plain(endpoint, 100)
        raise AloeError(f"roles.{name}.endpoint: {shown!r} is no address; {fault}")


def _check_model(role: RoleSettings, name: str) -> None:
    """A model's name stands in the address of a call, and in the journal."""
    model = role.model or ""
    fits = model.isprintable() and model == model.strip()
    if not role.entry.any_model_name:
        fits = fits and bool(re.fullmatch(r"[\w./:@-]*", model, re.ASCII)) and ".." not in model
    if not fits:
        raise AloeError(
            f"roles.{name}.model: {plain(model, 100)!r} is no name that a model of {role.provider} can have"
        )


def _find_key(role: RoleSettings, name: str) -> tuple[str, str]:
    """The (variable, key) of a role; both are "" where no key is needed."""
    if role.project is not None:  # Vertex AI asks Google Cloud's own credentials
        return "", ""
    variables = (role.key_variable,) if role.key_variable else role.entry.key_variables
    if role.endpoint is not None and role.key_variable is None and not role.entry.key_at_endpoint:
        return "", ""  # the usual key is nothing to show to another server
    if not variables:
        return "", ""
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
