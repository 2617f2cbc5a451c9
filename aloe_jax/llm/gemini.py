"""Gemini through google-generativeai over REST: one attempt at a call."""

from __future__ import annotations

import json
import warnings
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

from aloe_jax import config
from aloe_jax.errors import AloeError
from aloe_jax.llm import schemas
from aloe_jax.llm.access import Access
from aloe_jax.llm.faults import TransientError, refused
from aloe_jax.llm.outcome import blocked_prompt, completion
from aloe_jax.llm.protocol import Completion, Request

_CONNECTIONS = 256  # kept open; calls beyond so many at once would connect anew each time


class Gemini:
    """A Gemini model by the SDK whose support has ended; `genai` has the maintained one, and more settings.

    The SDK knows neither a seed nor a thinking budget. Its own retries are switched off.
    """

    def __init__(self, role: config.Role, access: Access) -> None:
        assert role.model is not None
        self.name = role.model
        self._role, self._access = role, access
        self._client = _client(access.key, role.endpoint)

    def ask(self, request: Request, timeout: float) -> Completion:
        """Make one attempt. Raises TransientError or AloeError."""
        model = _model_class()(self._client, self.name, request.system)
        options = {"timeout": timeout, "retry": None, "metadata": [("x-request-id", request.key(self.name))]}
        try:
            reply = model.generate_content(
                request.prompt, generation_config=self._settings(request), request_options=options
            )
        except Exception as error:
            fault = _fault(self._access, error)
        else:
            return _read(reply)
        # Raised outside of the handler: the SDK's exception, which knows the request's headers, goes no further.
        raise fault

    def _settings(self, request: Request) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "temperature": request.temperature,
            "max_output_tokens": self._role.max_output_tokens,
            "response_mime_type": "application/json",
        }
        form = _form(json.dumps(request.schema))
        return settings if form is None else settings | {"response_schema": form}


@cache
def _sdk() -> ModuleType:
    with warnings.catch_warnings():
        # That its support has ended is said in this module and in the documentation, once.
        warnings.simplefilter("ignore", FutureWarning)
        import google.generativeai
    return google.generativeai


def _client(key: str, endpoint: str | None) -> Any:
    """A client of its own: the SDK's `configure` sets one key and one endpoint for the whole process."""
    _sdk()
    from google.ai import generativelanguage
    from google.ai.generativelanguage_v1beta.services.generative_service.transports import (
        GenerativeServiceRestTransport,
    )
    from requests.adapters import HTTPAdapter

    class Transport(GenerativeServiceRestTransport):
        """REST with as many connections kept open as threads may call; the SDK's own keeps ten."""

        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            for scheme in ("https://", "http://"):
                self._session.mount(scheme, HTTPAdapter(pool_maxsize=_CONNECTIONS))

    options = {"api_key": key} | ({} if endpoint is None else {"api_endpoint": endpoint.rstrip("/")})
    return generativelanguage.GenerativeServiceClient(transport=Transport, client_options=options)


@cache
def _model_class() -> type:
    base: Any = _sdk().GenerativeModel

    class Model(base):
        """The SDK's model on a client of ours."""

        def __init__(self, client: Any, name: str, system: str) -> None:
            super().__init__(name, system_instruction=system or None)
            self._client = client

    return Model


@lru_cache(maxsize=256)
def _form(schema: str) -> Any:
    said = schemas.gemini(json.loads(schema))
    return None if said is None else _sdk().protos.Schema(said)


def _read(reply: Any) -> Completion:
    usage = reply.usage_metadata
    read = usage.prompt_token_count
    written = max(usage.total_token_count - read, usage.candidates_token_count)  # the total includes thinking
    if not reply.candidates:
        return blocked_prompt(_name(reply.prompt_feedback.block_reason), "", read, written)
    candidate = reply.candidates[0]
    text = "".join(part.text for part in candidate.content.parts)
    ratings = [_name(rating.category) for rating in candidate.safety_ratings if rating.blocked]
    return completion(text, _name(candidate.finish_reason), ", ".join(ratings), read, written)


def _name(value: Any) -> str:
    # A number stands for a reason that is younger than the SDK.
    return getattr(value, "name", str(value))


def _fault(access: Access, error: Exception) -> Exception:
    """What an exception of the SDK means; itself when it is a defect."""
    import requests
    from google.api_core.exceptions import GoogleAPICallError
    from google.protobuf.json_format import ParseError

    match error:
        case GoogleAPICallError():
            headers = {} if error.response is None else error.response.headers
            return refused(access, int(error.code or 0), _message(error), headers, error.details)
        case requests.exceptions.Timeout():
            return TransientError("timeout")
        case requests.exceptions.ConnectionError() | requests.exceptions.ChunkedEncodingError():
            return TransientError("connection lost", detail=access.scrub(str(error)))
        case requests.exceptions.ContentDecodingError() | ParseError() | UnicodeDecodeError() | AttributeError():
            # The SDK itself stumbles (AttributeError) over an error body that is JSON of another form.
            return TransientError("unreadable reply", detail=access.scrub(str(error)))
        case requests.exceptions.RequestException():
            return AloeError(access.message(str(error)))
    return error


def _message(error: Any) -> str:
    """The server's own words; the SDK's message has the address around them."""
    try:
        return str(error.response.json()["error"]["message"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return str(error.message)
