"""OpenAI's chat completions and servers that speak the same (vLLM, llama.cpp, Ollama ...): one attempt at a call."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any

from aloe_jax import config
from aloe_jax.errors import AloeError
from aloe_jax.llm import schemas
from aloe_jax.llm.access import Access
from aloe_jax.llm.faults import TransientError, refused
from aloe_jax.llm.outcome import blocked_prompt, completion
from aloe_jax.llm.protocol import Completion, Request

_OWN = "api.openai.com"
# Ways to ask for JSON, the best first; which of them a server knows is found out once a process.
_FORMATS = ("json_schema", "json_object", "plain")
_known: dict[tuple[str | None, str], int] = {}  # (endpoint, model) -> place in _FORMATS
_learning = threading.Lock()


class OpenAI:
    """A model behind OpenAI's protocol. The SDK's own retries are switched off."""

    def __init__(self, role: config.Role, access: Access) -> None:
        import openai

        assert role.model is not None
        self.name = role.model
        self._role, self._access = role, access
        # Servers of one's own mostly want no key, but the SDK wants one.
        self._client = openai.OpenAI(api_key=access.key or "none", base_url=role.endpoint, max_retries=0)
        # Where a model thinks, OpenAI has a name of its own for the limit; other servers know the old one.
        own = self._client.base_url.host == _OWN
        self._limit = "max_completion_tokens" if own else "max_tokens"

    def ask(self, request: Request, timeout: float) -> Completion:
        """Make one attempt. Raises TransientError or AloeError."""
        place = _known.get((self._role.endpoint, self.name), 0)
        try:
            reply = self._client.chat.completions.with_raw_response.create(
                **self._body(request, _FORMATS[place]),
                timeout=timeout,
                extra_headers={"X-Request-Id": request.key(self.name)},
            )
        except Exception as error:
            blocked = _blocked(error)
            fault = blocked or _fault(self._access, error)
            refuses_format = place + 1 < len(_FORMATS) and _refuses_format(error)
        else:
            return _read(reply.http_response.content)
        if refuses_format:
            with _learning:
                known = _known.get((self._role.endpoint, self.name), 0)
                _known[self._role.endpoint, self.name] = max(known, place + 1)
            return self.ask(request, timeout)
        if isinstance(fault, Completion):
            return fault
        # Raised outside of the handler: the SDK's exception, which knows the request's headers, goes no further.
        raise fault

    def _body(self, request: Request, format: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": request.prompt}]
        if request.system:
            messages.insert(0, {"role": "system", "content": request.system})
        body: dict[str, Any] = {
            "model": self.name,
            "messages": messages,
            "temperature": request.temperature,
            "seed": request.seed,
            self._limit: self._role.max_output_tokens,
        }
        if format == "json_schema":
            form = {"name": request.role, "strict": True, "schema": schemas.strict(request.schema)}
            body["response_format"] = {"type": format, "json_schema": form}
        elif format == "json_object":
            body["response_format"] = {"type": format}
        return body


def _read(content: bytes) -> Completion:
    try:
        body: Mapping[str, Any] = json.loads(content)
        usage = body.get("usage") or {}
        spent = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)  # thinking included
        choice = body["choices"][0]
        if refusal := choice["message"].get("refusal"):
            return completion("", "content_filter", str(refusal), *spent)
        text = choice["message"].get("content") or ""
        return completion(str(text), str(choice.get("finish_reason") or "stop"), "", *spent)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        detail = f"not of the expected form ({type(error).__name__})"
    raise TransientError("unreadable reply", detail=detail)


def _error(error: Exception) -> Mapping[str, Any]:
    """The error object of a server's answer, or {}."""
    body = getattr(error, "body", None)
    return body if isinstance(body, Mapping) else {}


def _blocked(error: Exception) -> Completion | None:
    """Some servers answer 400 to a prompt that their filter holds back."""
    if _error(error).get("code") in ("content_filter", "content_policy_violation"):
        return blocked_prompt(str(_error(error)["code"]), str(_error(error).get("message", "")), 0)
    return None


def _refuses_format(error: Exception) -> bool:
    said = f"{_error(error).get('message', '')} {_error(error).get('param', '')} {error}".lower()
    return getattr(error, "status_code", 0) in (400, 422) and ("response_format" in said or "json_schema" in said)


def _fault(access: Access, error: Exception) -> Exception:
    """What an exception of the SDK means; itself when it is a defect."""
    import openai

    match error:
        case openai.APIStatusError():
            message = str(_error(error).get("message") or error.message)
            code = str(_error(error).get("code") or "")
            return refused(access, error.status_code, message, error.response.headers, code=code)
        case openai.APITimeoutError():
            return TransientError("timeout")
        case openai.APIConnectionError():
            return TransientError("connection lost", detail=access.scrub(str(error.__cause__ or error)))
        case openai.OpenAIError():
            return AloeError(access.message(str(error)))
    return error
