"""Gemini through google-generativeai over REST: one attempt at a call."""

from __future__ import annotations

import io
import json
import threading
import warnings
from collections.abc import Mapping
from functools import cache, lru_cache, partial
from types import ModuleType
from typing import Any  # noqa: TID251  the SDK has no types

from aloe_jax.errors import AloeError
from aloe_jax.llm import schemas
from aloe_jax.llm.access import Access
from aloe_jax.llm.dialect import SYSTEM, TEMPERATURE, RemoteModel, Steps
from aloe_jax.llm.failures import TransientError, meaning, translated
from aloe_jax.llm.genai import JSON, LIMIT, SCHEMA, SERVER, contents, read_response
from aloe_jax.llm.protocol import Completion, Request
from aloe_jax.llm.responses import body_of
from aloe_jax.llm.settings import RoleSettings


class Gemini(RemoteModel):
    """A Gemini model by the SDK whose support has ended; `genai` has the maintained one, and more settings.

    The SDK knows neither a seed nor a thinking budget. Its own retries are switched off. It makes the request; the
    reply is read as it came, because its types cannot hold everything that servers send.
    """

    fields = (TEMPERATURE, LIMIT, SYSTEM, JSON, SCHEMA)

    def __init__(self, role: RoleSettings, access: Access) -> None:
        super().__init__(role, access)
        self._received = _Received()
        self._client = _client(access.key, role.endpoint or SERVER, self._received)

    def _once(self, request: Request, steps: Steps, timeout: float) -> Completion:
        system = "" if steps.get("system message") else request.system
        model = _model_class()(self._client, self.name, system)
        options = {"timeout": timeout, "retry": None, "metadata": [("x-request-id", request.key(self.name))]}
        self._received.content = b""
        translated(
            lambda: model.generate_content(
                contents(request, steps), generation_config=self._settings(request, steps), request_options=options
            ),
            partial(_meaning, self._access),
        )
        return read_response(_named(body_of(self._received.content)))

    def _settings(self, request: Request, steps: Steps) -> dict[str, object]:
        settings: dict[str, object] = {}
        if not steps.get("temperature"):
            settings["temperature"] = request.temperature
        if not steps.get("max_output_tokens"):
            settings["max_output_tokens"] = self._role.max_output_tokens
        if not steps.get("response_mime_type"):
            settings["response_mime_type"] = "application/json"
            form = None if steps.get("response_schema") else _form(json.dumps(request.schema))
            if form is not None:
                settings["response_schema"] = form
        return settings


class _Received(threading.local):
    """The body of this thread's last reply."""

    content = b""


@cache
def _sdk() -> ModuleType:
    with warnings.catch_warnings():
        # That its support has ended is said in this module and in the documentation, once.
        warnings.simplefilter("ignore", FutureWarning)
        import google.generativeai
    return google.generativeai


def _client(key: str, endpoint: str, received: _Received) -> Any:
    """A client of its own: the SDK's `configure` sets one key and one endpoint for the whole process."""
    _sdk()
    import requests
    from google.ai import generativelanguage
    from google.ai.generativelanguage_v1beta.services.generative_service.transports import (
        GenerativeServiceRestTransport,
    )
    from requests.adapters import BaseAdapter

    from aloe_jax.llm.wire import Wire

    class WireAdapter(BaseAdapter):
        """Sends the SDK's requests over our wire and keeps the reply; the SDK itself sees an empty one."""

        def __init__(self) -> None:
            super().__init__()
            self._wire = Wire()

        def send(
            self,
            request: requests.PreparedRequest,
            stream: bool = False,
            timeout: Any = None,
            verify: Any = True,
            cert: Any = None,
            proxies: Any = None,
        ) -> requests.Response:
            seconds = max(timeout) if isinstance(timeout, tuple) else timeout
            body = request.body
            headers = [(name, _text(value)) for name, value in request.headers.items()]
            content = body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else b""
            answer = self._wire.send(str(request.method), str(request.url), headers, content, seconds)
            received.content = answer.content
            response = requests.Response()
            response.status_code, response.request, response.url = 200, request, str(request.url)
            response.headers["Content-Type"] = "application/json"
            response.raw = io.BytesIO(b"{}")
            return response

        def close(self) -> None:
            self._wire.close()

    class WireTransport(GenerativeServiceRestTransport):
        """REST over our wire."""

        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            for scheme in ("https://", "http://"):
                self._session.mount(scheme, WireAdapter())

    options = {"api_key": key, "api_endpoint": endpoint.rstrip("/")}
    return generativelanguage.GenerativeServiceClient(transport=WireTransport, client_options=options)


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


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


def _named(body: Mapping[str, object]) -> Mapping[str, object]:
    """The reply with the names of its reasons: this SDK asks for their numbers."""
    protos = _sdk().protos
    kinds = {
        "finishReason": protos.Candidate.FinishReason,
        "blockReason": protos.GenerateContentResponse.PromptFeedback.BlockReason,
        "category": protos.HarmCategory,
    }

    def named(value: object, depth: int = 0) -> Any:
        if isinstance(value, list) and depth < 8:
            return [named(one, depth + 1) for one in value]
        if not isinstance(value, dict) or depth >= 8:
            return value
        return {
            key: _name(kinds[key], inner) if key in kinds else named(inner, depth + 1) for key, inner in value.items()
        }

    wanted = ("candidates", "promptFeedback")
    return {key: named(value) if key in wanted else value for key, value in body.items()}


def _name(kind: Any, value: object) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    try:
        return kind(value).name
    except ValueError:
        return str(value)  # a number stands for a reason that is younger than the SDK


def _meaning(access: Access, error: Exception) -> Exception:
    """What an exception of the SDK or of the wire means; itself when it is a defect."""
    import requests

    match error:
        case requests.exceptions.Timeout():
            return TransientError("timeout")
        case requests.exceptions.RequestException():
            return AloeError(access.message(str(error)))
    return meaning(access, error)
