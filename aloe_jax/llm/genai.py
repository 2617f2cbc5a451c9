"""Gemini through google-genai, by the Gemini API or Vertex AI: one attempt at a call."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from aloe_jax import config
from aloe_jax.errors import AloeError
from aloe_jax.llm.access import Access
from aloe_jax.llm.faults import TransientError, refused
from aloe_jax.llm.outcome import blocked_prompt, completion
from aloe_jax.llm.protocol import Completion, Request

_KEEP_OPEN = 60.0  # seconds for which an idle connection is kept


class Genai:
    """A Gemini model by the maintained SDK. Its own retries stay off."""

    def __init__(self, role: config.Role, access: Access) -> None:
        assert role.model is not None
        self.name = role.model
        self._role, self._access = role, access
        self._client = client(role, access)

    def ask(self, request: Request, timeout: float) -> Completion:
        """Make one attempt. Raises TransientError or AloeError."""
        from google.genai import types

        settings = generation(self._role, request)
        settings.http_options = types.HttpOptions(
            headers={"X-Request-Id": request.key(self.name)}, timeout=round(timeout * 1000)
        )
        # The body as it came: the SDK's types cost time and know no reasons younger than themselves.
        settings.should_return_http_response = True
        try:
            answer = self._client.models.generate_content(
                model=self.name, contents=request.prompt, config=settings
            ).sdk_http_response
        except Exception as error:
            fault = meaning(self._access, error)
        else:
            return read(_body(answer.body))
        # Raised outside of the handler: the SDK's exception, which knows the request's headers, goes no further.
        raise fault


def client(role: config.Role, access: Access) -> Any:
    """A client for the Gemini API, or for Vertex AI when the role names a project."""
    import httpx2
    from google import genai
    from google.genai import types

    # By default 20 connections are kept open, for 5 seconds; more threads would connect anew for every call.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEEP_OPEN)
    options = types.HttpOptions(base_url=role.endpoint, client_args={"limits": limits})
    if role.project is not None:
        return genai.Client(vertexai=True, project=role.project, location=role.location, http_options=options)
    options.api_version = "v1beta"
    # It warns that GOOGLE_API_KEY is used when both variables are set, also when it is given another key.
    log = logging.getLogger("google_genai._api_client")
    log.addFilter(_not_about_keys)
    try:
        return genai.Client(vertexai=False, api_key=access.key, http_options=options)
    finally:
        log.removeFilter(_not_about_keys)


def _not_about_keys(record: logging.LogRecord) -> bool:
    return "GOOGLE_API_KEY" not in str(record.msg)


def generation(role: config.Role, request: Request) -> Any:
    """The SDK's settings for one request."""
    from google.genai import types

    thinking = role.thinking_budget
    return types.GenerateContentConfig(
        system_instruction=request.system or None,
        temperature=request.temperature,
        max_output_tokens=role.max_output_tokens,
        seed=request.seed,
        response_mime_type="application/json",
        response_json_schema=dict(request.schema),
        thinking_config=None if thinking is None else types.ThinkingConfig(thinking_budget=thinking),
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )


def _body(text: str | None) -> Mapping[str, Any]:
    try:
        body = json.loads(text or "")
    except ValueError:
        raise TransientError("unreadable reply", detail="no JSON") from None
    if not isinstance(body, dict):
        raise TransientError("unreadable reply", detail="no JSON object")
    return body


def read(body: Mapping[str, Any]) -> Completion:
    """The completion in a GenerateContentResponse. Raises TransientError when it is none."""
    try:
        usage = body.get("usageMetadata", {})
        tokens = int(usage.get("promptTokenCount", 0))
        written = int(usage.get("candidatesTokenCount", 0)) + int(usage.get("thoughtsTokenCount", 0))
        if not body.get("candidates"):
            feedback = body.get("promptFeedback", {})
            reason = str(feedback.get("blockReason", "no candidates"))
            return blocked_prompt(reason, str(feedback.get("blockReasonMessage", "")), tokens, written)
        candidate = body["candidates"][0]
        parts = candidate.get("content", {}).get("parts") or []
        text = "".join(part.get("text", "") for part in parts if not part.get("thought"))
        ratings = [rating["category"] for rating in candidate.get("safetyRatings") or [] if rating.get("blocked")]
        detail = ", ".join(filter(None, [candidate.get("finishMessage"), *ratings]))
        return completion(text, str(candidate.get("finishReason", "")), detail, tokens, written)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        detail = f"not of the expected form ({type(error).__name__})"
    raise TransientError("unreadable reply", detail=detail)


def meaning(access: Access, error: Exception) -> Exception:
    """What an exception of the SDK means: TransientError, AloeError, or itself when it is a defect."""
    import httpx2
    from google.auth.exceptions import GoogleAuthError, TransportError
    from google.genai.errors import APIError

    fault: Exception = error
    match error:
        case APIError():
            body = error.details if isinstance(error.details, dict) else {}
            inner = body.get("error", body)
            details = inner.get("details", ()) if isinstance(inner, dict) else ()
            headers = getattr(error.response, "headers", None) or {}
            fault = refused(access, error.code, error.message or str(error.details), headers, details)
        case httpx2.TimeoutException():
            fault = TransientError("timeout")
        case httpx2.UnsupportedProtocol() | httpx2.InvalidURL():
            fault = AloeError(access.message(str(error)))
        case httpx2.TransportError():
            fault = TransientError("connection lost", detail=access.scrub(str(error)))
        case httpx2.DecodingError():
            fault = TransientError("unreadable reply", detail=access.scrub(str(error)))
        case TransportError():
            fault = TransientError("connection lost", detail=access.scrub(f"Google Cloud credentials: {error}"))
        case GoogleAuthError():
            advice = "run `gcloud auth application-default login`"
            fault = AloeError(access.message(f"no Google Cloud credentials ({error}); {advice}"))
    return fault
