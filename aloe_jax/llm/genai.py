"""Gemini through google-genai, by the Gemini API or Vertex AI: one attempt at a call."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any  # noqa: TID251  what does not fit in a reply raises, and is caught

from aloe_jax.errors import AloeError
from aloe_jax.llm import failures
from aloe_jax.llm.access import Access
from aloe_jax.llm.dialect import SEED, SYSTEM, TEMPERATURE, Field, RemoteModel, Steps, pattern
from aloe_jax.llm.error_response import ErrorResponse
from aloe_jax.llm.failures import TransientError, translated
from aloe_jax.llm.protocol import Completion, Request
from aloe_jax.llm.responses import blocked_prompt, body_of, completion, tokens, unreadable
from aloe_jax.llm.settings import RoleSettings

if TYPE_CHECKING:
    from google import genai
    from google.genai import types

SERVER = "https://generativelanguage.googleapis.com"
JSON = Field(
    "response_mime_type",
    pattern("json mode|response_?mime_?type|mime type"),
    ("is left out, with the schema; the prompt asks for JSON",),
    shapes=False,
)
SCHEMA = Field(
    "response_schema",
    pattern("response_?(?:json_?)?schema|schema"),
    ("is left out; the prompt describes the object",),
    shapes=False,
)
LIMIT = Field(
    "max_output_tokens",
    pattern("max_?output_?tokens"),
    ("is left out: replies are as long as the server lets them be",),
)
_THINKING = Field("thinking_budget", pattern("thinking(?:_?config|_?budget)?"), ("is left out: the model decides",))
FIELDS = (SEED, _THINKING, TEMPERATURE, LIMIT, SYSTEM, JSON, SCHEMA)


class Genai(RemoteModel):
    """A Gemini model by the maintained SDK. Its own retries stay off."""

    fields = FIELDS

    def __init__(self, role: RoleSettings, access: Access) -> None:
        super().__init__(role, access)
        self._client = client(role, access)

    def _once(self, request: Request, steps: Steps, timeout: float) -> Completion:
        from google.genai import types

        settings = generation(self._role, request, steps)
        settings.http_options = types.HttpOptions(
            headers={"X-Request-Id": request.key(self.name)}, timeout=max(1, round(timeout * 1000))
        )
        # The body as it came: the SDK's types cost time and know no reasons younger than themselves.
        settings.should_return_http_response = True
        answer = translated(
            lambda: (
                self._client.models.generate_content(
                    model=self.name, contents=contents(request, steps), config=settings
                ).sdk_http_response
            ),
            partial(meaning, self._access),
        )
        assert answer is not None  # as asked for above
        return read_response(body_of(answer.body or ""))


def client(role: RoleSettings, access: Access) -> genai.Client:
    """A client for the Gemini API, or for Vertex AI when the role names a project."""
    from google import genai
    from google.genai import types

    from aloe_jax.llm.wire import Transport

    options = types.HttpOptions(
        base_url=role.endpoint, client_args={"transport": Transport(), "trust_env": False, "follow_redirects": False}
    )
    if role.project is not None:
        return genai.Client(vertexai=True, project=role.project, location=role.location, http_options=options)
    options.api_version = "v1beta"
    # The address is the settings' alone: left open, the SDK would take one from the environment.
    options.base_url = role.endpoint or SERVER
    # It warns that GOOGLE_API_KEY is used when both variables are set, also when it is given another key.
    log = logging.getLogger("google_genai._api_client")
    log.addFilter(_not_about_keys)
    try:
        return genai.Client(vertexai=False, api_key=access.key, http_options=options)
    finally:
        log.removeFilter(_not_about_keys)


def _not_about_keys(record: logging.LogRecord) -> bool:
    return "GOOGLE_API_KEY" not in str(record.msg)


def generation(role: RoleSettings, request: Request, steps: Steps) -> types.GenerateContentConfig:
    """The SDK's settings for one request, without what the server was found to refuse."""
    from google.genai import types

    thinking = None if steps.get("thinking_budget") else role.thinking_budget
    form = not steps.get("response_mime_type")
    return types.GenerateContentConfig(
        system_instruction=None if steps.get("system message") else request.system or None,
        temperature=None if steps.get("temperature") else request.temperature,
        max_output_tokens=None if steps.get("max_output_tokens") else role.max_output_tokens,
        seed=None if steps.get("seed") else request.seed,
        response_mime_type="application/json" if form else None,
        response_json_schema=dict(request.schema) if form and not steps.get("response_schema") else None,
        thinking_config=None if thinking is None else types.ThinkingConfig(thinking_budget=thinking),
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )


def contents(request: Request, steps: Steps) -> str:
    """The prompt, with the system text before it where the server takes none by itself.

    Raises UnicodeEncodeError for half a character, which would otherwise arrive as an escape.
    """
    for text in (request.system, request.prompt):
        text.encode()
    if request.system and steps.get("system message"):
        return f"{request.system}\n\n{request.prompt}"
    return request.prompt


def read_response(body: Mapping[str, object]) -> Completion:
    """The completion in a GenerateContentResponse. Raises TransientError when it is none."""
    try:
        reply: Mapping[str, Any] = body
        usage = reply.get("usageMetadata") or {}
        spent = tokens(usage.get("promptTokenCount"))
        written = tokens(usage.get("candidatesTokenCount")) + tokens(usage.get("thoughtsTokenCount"))
        if not reply.get("candidates"):
            feedback = reply.get("promptFeedback") or {}
            if reason := feedback.get("blockReason"):
                return blocked_prompt(str(reason), str(feedback.get("blockReasonMessage") or ""), spent, written)
            if not usage and not feedback and "candidates" not in body:
                raise ValueError
            return completion("", "no candidates", "", spent, written)
        candidate = reply["candidates"][0]
        parts = (candidate.get("content") or {}).get("parts") or []
        text = "".join(part.get("text") or "" for part in parts if not part.get("thought"))
        ratings = [str(rating["category"]) for rating in candidate.get("safetyRatings") or [] if rating.get("blocked")]
        said = candidate.get("finishMessage")
        detail = ", ".join([str(said)] * bool(said) + ratings)
        return completion(text, str(candidate.get("finishReason") or ""), detail, spent, written)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        pass
    raise unreadable("not of the expected form", body)


def meaning(access: Access, error: Exception) -> Exception:
    """What an exception of the SDK or the wire means: as in `failures.meaning`, a defect is itself."""
    import httpx2
    from google.auth.exceptions import GoogleAuthError, TransportError
    from google.genai.errors import APIError

    fault = error
    match error:
        case APIError():
            body = error.details if isinstance(error.details, dict | list) else error.message
            fault = ErrorResponse.of(error.code, body)
        case httpx2.TimeoutException():
            fault = TransientError("timeout")
        case httpx2.UnsupportedProtocol() | httpx2.InvalidURL():
            fault = AloeError(access.message(str(error)))
        case httpx2.TransportError():
            fault = TransientError("connection lost", detail=str(error))
        case UnicodeEncodeError():
            pass  # a ValueError of the prompt, not of a reply
        case ValueError() | RecursionError() | TypeError() | AttributeError() | KeyError():
            # The SDK's own types stumble over a reply.
            fault = TransientError("unreadable reply", detail=f"{type(error).__name__}: {error}"[:2000])
        case TransportError():
            fault = TransientError("connection lost", detail=f"Google Cloud credentials: {error}")
        case GoogleAuthError():
            advice = "run `gcloud auth application-default login`"
            fault = AloeError(access.message(f"no Google Cloud credentials ({error}); {advice}"))
    return failures.meaning(access, fault)
