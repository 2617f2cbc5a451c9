"""Reading a server's response: its JSON body, and what becomes of a reply that ended for some reason."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from aloe_jax.llm.error_response import ErrorResponse, load, plain
from aloe_jax.llm.failures import TransientError
from aloe_jax.llm.protocol import Completion, Outcome

_ABOUT_THE_REQUEST = ("invalid", "unsupported", "context_length", "content_", "json_validate", "insufficient")
# Gemini's finish reasons for a reply that its filters withheld.
_BLOCKED = frozenset(
    ("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "content_filter")
)
_CUT = frozenset(("MAX_TOKENS", "length"))
_DONE = frozenset(("STOP", "stop"))
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_MOST_TOKENS = 1e9  # of one call; a larger figure is none


def body_of(content: bytes | str, errors: bool = True) -> Mapping[str, object]:
    """The JSON object of a reply; `errors`: whether one with an `error` is no reply.

    Raises TransientError, with the server's words, when there is none, and ErrorResponse when it is an error after all.
    """
    body = load(content.removeprefix("\ufeff") if isinstance(content, str) else content)
    if body is None:
        text = content if isinstance(content, str) else content[:10_000].decode("utf-8", "replace")
        raise unreadable("no JSON", text)
    if isinstance(body, list) and len(body) == 1:
        body = body[0]  # as the streaming form has it
    if not isinstance(body, dict):
        raise unreadable("no JSON object", body)
    if errors:
        error_within(body)
    return body


def error_within(body: Mapping[str, object]) -> None:
    """Some gateways answer 200 with an error in the body: raise ErrorResponse, or TransientError of an unknown kind."""
    error = body.get("error")
    if not error:
        return
    refusal = ErrorResponse.of(200, body)
    code = error.get("code") if isinstance(error, Mapping) else None
    if isinstance(code, str) and code.isascii() and code.isdigit() and len(code) == 3:
        code = int(code)
    if isinstance(code, int) and 400 <= code < 600:
        refusal.status = code
        raise refusal
    # A name that says that it is about the request stands for the status that belongs to it.
    if refusal.code.startswith(_ABOUT_THE_REQUEST):
        refusal.status = 400
        raise refusal
    raise TransientError("error in a reply", detail=refusal.message)


def unreadable(what: str, body: object) -> TransientError:
    """The fault of a reply that is not of the form it should have; it shows how it begins."""
    try:
        shown = plain(body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)[:1000], 200)
    except RecursionError:
        shown = ""
    return TransientError("unreadable reply", detail=f"{what}: {shown}" if shown else what)


def completion(text: str, reason: str, detail: str, input_tokens: int, output_tokens: int) -> Completion:
    """The completion for a reply that ended for `reason` (Gemini's or OpenAI's); `detail` is what more was said."""
    reason, detail = plain(reason, 100), plain(detail)
    outcome: Outcome = "ok"
    if reason in _BLOCKED:
        outcome = "blocked"
    elif reason in _CUT:  # thinking may have used up all tokens before a first word
        outcome = "truncated"
    elif not text.strip():
        outcome = "empty"
    said = "" if outcome == "ok" and reason in _DONE else ": ".join(part for part in (reason, detail) if part)
    # An emoji cut in two comes as an escape for half of it, which no file can hold.
    if not text.isascii() and _HALF_CHARACTER.search(text):
        text = _HALF_CHARACTER.sub("\ufffd", text)
        if outcome == "ok":
            outcome, said = "unreadable", "the reply breaks within a character"
    return Completion(text, input_tokens, output_tokens, outcome, said)


def blocked_prompt(reason: str, detail: str, input_tokens: int, output_tokens: int = 0) -> Completion:
    """The completion for a prompt that was blocked before any reply was written."""
    reason, detail = plain(reason, 100), plain(detail)
    said = f"prompt blocked, {reason}" + (f": {detail}" if detail else "")
    return Completion("", input_tokens, output_tokens, "blocked", said)


def tokens(value: object) -> int:
    """A server's count of tokens; 0, which stands for unknown, where it is no count."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    # Neither NaN nor an infinity is within these bounds.
    return int(value) if 0 <= value < _MOST_TOKENS and value == int(value) else 0
