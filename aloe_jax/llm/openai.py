"""OpenAI's chat completions and servers that speak the same (vLLM, llama.cpp, Ollama ...): one attempt at a call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any  # noqa: TID251  bodies of the SDK; what does not fit in a reply raises, and is caught

from aloe_jax.errors import AloeError
from aloe_jax.llm import schemas
from aloe_jax.llm.access import Access
from aloe_jax.llm.dialect import SEED, SYSTEM, TEMPERATURE, Field, RemoteModel, Steps, pattern
from aloe_jax.llm.failures import TransientError, meaning, translated
from aloe_jax.llm.protocol import Completion, Request
from aloe_jax.llm.responses import body_of, completion, tokens, unreadable
from aloe_jax.llm.settings import RoleSettings

_OWN = "https://api.openai.com/v1"
_FORMAT = Field(
    "response_format",
    pattern("response_?format|json_?schema|json_?object|structured outputs?|guided_?json"),
    ("asks for any JSON object instead of a schema", "is left out; the prompt asks for JSON"),
    shapes=False,
    certain=True,
)
_LIMITS = ("max_tokens", "max_completion_tokens")
_LIMIT = Field(
    "max_output_tokens",
    pattern("max_tokens|max_completion_tokens"),
    ("goes by its other name", "is left out: replies are as long as the server lets them be"),
)
_THOUGHTS = ("thinking", "reasoning", "reasoning_content", "redacted_thinking", "summary")


class OpenAI(RemoteModel):
    """A model behind OpenAI's protocol. The SDK's own retries are switched off."""

    fields = (_LIMIT, SEED, TEMPERATURE, SYSTEM, _FORMAT)  # the last is certain, and other refusals may speak of it

    def __init__(self, role: RoleSettings, access: Access) -> None:
        import openai

        from aloe_jax.llm.wire import Transport

        super().__init__(role, access)
        # Servers of one's own mostly want no key, but the SDK wants one. The address is the settings' alone: left
        # open, the SDK would take one from the environment.
        self._client = openai.OpenAI(
            api_key=access.key or "none",
            base_url=role.endpoint or _OWN,
            max_retries=0,
            http_client=openai.DefaultHttpxClient(transport=Transport(), trust_env=False),
        )
        # Where a model thinks, OpenAI has a name of its own for the limit; other servers know the old one.
        own = str(self._client.base_url).startswith("https://api.openai.com/")
        self._limits = _LIMITS[::-1] if own else _LIMITS

    def _once(self, request: Request, steps: Steps, timeout: float) -> Completion:
        headers = {"X-Request-Id": request.key(self.name)}
        reply = translated(
            lambda: self._client.chat.completions.with_raw_response.create(
                **self._body(request, steps), timeout=timeout, extra_headers=headers
            ),
            partial(_meaning, self._access),
        )
        return _read(reply.http_response.content)

    def _body(self, request: Request, steps: Steps) -> dict[str, Any]:
        system, prompt = request.system, request.prompt
        if system and steps.get("system message"):
            system, prompt = "", f"{system}\n\n{prompt}"
        messages = [{"role": "user", "content": prompt}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        body: dict[str, Any] = {"model": self.name, "messages": messages}
        if not steps.get("temperature"):
            body["temperature"] = request.temperature
        if not steps.get("seed"):
            body["seed"] = request.seed
        limit = steps.get("max_output_tokens", 0)
        if limit < len(self._limits):
            body[self._limits[limit]] = self._role.max_output_tokens
        match steps.get("response_format", 0):
            case 0:
                form = {"name": request.role, "strict": True, "schema": schemas.strict(request.schema)}
                body["response_format"] = {"type": "json_schema", "json_schema": form}
            case 1:
                body["response_format"] = {"type": "json_object"}
        return body


def _read(content: bytes) -> Completion:
    """The completion in a reply. Raises TransientError when it is none, and ErrorResponse when it is an error."""
    body: Mapping[str, Any] = body_of(content)
    try:
        usage = body.get("usage")
        usage = usage if isinstance(usage, Mapping) else {}
        spent = tokens(usage.get("prompt_tokens")), tokens(usage.get("completion_tokens"))  # thinking included
        choice = body["choices"][0]
        if isinstance(choice.get("error"), Mapping):  # of the provider behind a gateway
            body_of(json.dumps({"error": choice["error"]}))
        message = choice["message"]
        reason = choice.get("finish_reason")
        reason = reason if isinstance(reason, str) and reason else "stop"
        if refusal := message.get("refusal"):
            return completion("", "content_filter", str(refusal), *spent)
        text, detail = _text(message.get("content")), ""
        if not text.strip():
            text, detail = _from_thoughts(message, reason)
        return completion(text, reason, detail, *spent)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError):
        pass
    raise unreadable("not of the expected form", body)


def _text(content: object) -> str:
    """The text of a message's content: itself, or the parts of it that are no thinking."""
    match content:
        case None:
            return ""
        case list():
            return "".join(_text(part) for part in content)
        case {"type": str(kind)} if kind in _THOUGHTS:
            return ""
        case {"text": str(text)} | {"text": {"value": str(text)}} | {"content": str(text), "type": str()}:
            return text
        case dict():  # the answer itself, not written out, where it is no part of another kind
            return "" if isinstance(content.get("type"), str) else json.dumps(content)
    return str(content)


def _from_thoughts(message: Mapping[str, object], reason: str) -> tuple[str, str]:
    """The answer that a server took for thinking, and a word on it.

    Thoughts are full of drafts. Only what was finished and ends with the closing brace of an object is an answer.
    """
    thoughts = message.get("reasoning_content") or message.get("reasoning") or message.get("thinking") or ""
    if not isinstance(thoughts, str) or not thoughts.strip():
        return "", ""
    ending = thoughts.rstrip("` \n\t")
    if reason == "stop" and ending.endswith(("}", "}]")):
        return thoughts, ""
    return "", "the server sent reasoning and no answer"


def _meaning(access: Access, error: Exception) -> Exception:
    """What an exception of the SDK or of the wire means; itself when it is a defect."""
    import openai

    match error:
        case openai.APITimeoutError():
            return TransientError("timeout")
        case openai.APIConnectionError():
            return TransientError("connection lost", detail=access.scrub(str(error.__cause__ or error)))
        case openai.OpenAIError():
            return AloeError(access.message(str(error)))
    return meaning(access, error)
