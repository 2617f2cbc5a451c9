"""Reading a reply of the Gemini API, as it came over the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aloe_jax.llm.complaint import Complaint, load, plain
from aloe_jax.llm.faults import TransientError
from aloe_jax.llm.outcome import blocked_prompt, completion, tokens
from aloe_jax.llm.protocol import Completion

_ABOUT_THE_REQUEST = ("invalid", "unsupported", "context_length", "content_", "json_validate", "insufficient")


def body_of(content: bytes | str, errors: bool = True) -> Mapping[str, Any]:
    """The JSON object of a reply; `errors`: whether one with an `error` is no reply.

    Raises TransientError, with the server's words, when there is none, and Complaint when it is an error after all.
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


def error_within(body: Mapping[str, Any]) -> None:
    """Some gateways answer 200 with an error in the body: raises Complaint, or TransientError of an unknown kind."""
    error = body.get("error")
    if not error:
        return
    complaint = Complaint.of(200, body)
    code = error.get("code") if isinstance(error, Mapping) else None
    if isinstance(code, str) and code.isascii() and code.isdigit() and len(code) == 3:
        code = int(code)
    if isinstance(code, int) and 400 <= code < 600:
        complaint.status = code
        raise complaint
    # A name that says that it is about the request stands for the status that belongs to it.
    if complaint.code.startswith(_ABOUT_THE_REQUEST):
        complaint.status = 400
        raise complaint
    raise TransientError("error in a reply", detail=complaint.message)


def unreadable(what: str, body: object) -> TransientError:
    """The fault of a reply that is not of the form it should have; it shows how it begins."""
    try:
        shown = plain(body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)[:1000], 200)
    except RecursionError:
        shown = ""
    return TransientError("unreadable reply", detail=f"{what}: {shown}" if shown else what)


def read(body: Mapping[str, Any]) -> Completion:
    """The completion in a GenerateContentResponse. Raises TransientError when it is none."""
    try:
        usage = body.get("usageMetadata") or {}
        spent = tokens(usage.get("promptTokenCount"))
        written = tokens(usage.get("candidatesTokenCount")) + tokens(usage.get("thoughtsTokenCount"))
        if not body.get("candidates"):
            feedback = body.get("promptFeedback") or {}
            if reason := feedback.get("blockReason"):
                return blocked_prompt(str(reason), str(feedback.get("blockReasonMessage") or ""), spent, written)
            if not usage and not feedback and "candidates" not in body:
                raise ValueError
            return completion("", "no candidates", "", spent, written)
        candidate = body["candidates"][0]
        parts = (candidate.get("content") or {}).get("parts") or []
        text = "".join(part.get("text") or "" for part in parts if not part.get("thought"))
        ratings = [str(rating["category"]) for rating in candidate.get("safetyRatings") or [] if rating.get("blocked")]
        said = candidate.get("finishMessage")
        detail = ", ".join([str(said)] * bool(said) + ratings)
        return completion(text, str(candidate.get("finishReason") or ""), detail, spent, written)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        pass
    raise unreadable("not of the expected form", body)
