"""What goes wrong on the way, drawn for every attempt anew: another attempt may be spared."""

from __future__ import annotations

import random
import re
import threading
from collections import Counter
from dataclasses import dataclass
from email.utils import formatdate
from time import time
from typing import Any

from tests.standin.dialects import gemini_error, openai_error

TRANSIENT = ("429", "429info", "503", "500", "reset", "hang", "cut")
# Models of these names fail so in every attempt; `503x2` only in the first two of each request.
ODD_FAULTS = (*TRANSIENT, "429date", "502", "504", "408", "html", "400", "teapot", "quota")
_NAME = re.compile(rf"^({'|'.join(ODD_FAULTS)})(?:x(\d+))?$")


class Faults:
    """Decides whether an attempt fails, and how. `rate` is the share of attempts that do, by chance."""

    def __init__(self, rate: float, seed: int) -> None:
        self._rate = rate
        self._draw = random.Random(seed)
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def next(self, model: str, id: str) -> str | None:
        """The fault of the next attempt at request `id`, or None."""
        with self._lock:
            named = _NAME.match(model)
            if named:
                self._attempts[model, id] += 1
                lasts = named.group(2)
                return named.group(1) if lasts is None or self._attempts[model, id] <= int(lasts) else None
            return self._draw.choice(TRANSIENT) if self._draw.random() < self._rate else None


@dataclass(frozen=True)
class Refusal:
    """An error as it goes over the wire."""

    status: int
    body: Any  # JSON, or text when it is a string
    headers: dict[str, str]


_KINDS = {
    "429": (429, "RESOURCE_EXHAUSTED", "Quota exceeded for requests per minute."),
    "429info": (429, "RESOURCE_EXHAUSTED", "Quota exceeded for tokens per minute."),
    "429date": (429, "RESOURCE_EXHAUSTED", "Quota exceeded for requests per minute."),
    "quota": (429, "insufficient_quota", "You exceeded your current quota, please check your plan and billing."),
    "503": (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    "500": (500, "INTERNAL", "An internal error has occurred."),
    "502": (502, "UNAVAILABLE", "Bad gateway."),
    "504": (504, "DEADLINE_EXCEEDED", "The deadline expired before the operation could complete."),
    "408": (408, "ABORTED", "The request took too long to arrive."),
    "400": (400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
    "teapot": (418, "INVALID_ARGUMENT", "I am a teapot."),
}


def refusal(kind: str, retry_after: float, google: bool) -> Refusal:
    """The error `kind` in Google's or OpenAI's form; `retry_after` is in seconds."""
    code, status, message = _KINDS[kind]
    headers: dict[str, str] = {}
    details: list[dict[str, Any]] = []
    if kind == "429" or (kind == "429info" and not google):
        headers["Retry-After"] = f"{retry_after:g}"
    elif kind == "429info":
        details = [
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": []},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{retry_after:g}s"},
        ]
    elif kind == "429date":
        headers["Retry-After"] = formatdate(time() + retry_after, usegmt=True)
    body = gemini_error(code, status, message, details) if google else openai_error(code, status, message)
    return Refusal(code, body, headers)


def refused_by_google(key: str, model: str) -> Refusal | None:
    """What the Gemini API has against a key or a model; no other attempt mends it."""
    if key.startswith("wrong"):
        code, status, text = 400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."
    elif not key or key.startswith("forbidden"):
        # As some proxies do, the message repeats the key.
        code, status, text = 403, "PERMISSION_DENIED", f"The caller with key '{key}' is refused."
    elif model == "unknown":
        code, status, text = 404, "NOT_FOUND", f"models/{model} is not found for API version v1beta."
    else:
        return None
    return Refusal(code, gemini_error(code, status, text), {})


def refused_by_openai(key: str, model: str, form: str | None) -> Refusal | None:
    """What OpenAI's API has against a key, a model or the type of a response_format."""
    if key.startswith("wrong"):
        code, kind, text = 401, "invalid_api_key", f"Incorrect API key provided: {key}."
    elif key.startswith("forbidden"):
        code, kind, text = 403, "forbidden", f"The key '{key}' is refused."
    elif model == "unknown":
        code, kind, text = 404, "model_not_found", f"The model `{model}` does not exist."
    elif (model == "noschema" and form == "json_schema") or (model == "noformat" and form):
        text = f"Invalid parameter: 'response_format' of type '{form}' is not supported with this model."
        code, kind = 400, "invalid_request_error"
    elif model == "filtered":
        code, kind, text = 400, "content_filter", "The prompt triggered the content management policy."
    else:
        return None
    return Refusal(code, openai_error(code, kind, text), {})
