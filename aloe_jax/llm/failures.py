"""What goes wrong with one attempt at a call: a fault that another attempt may mend, or an error."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from email.utils import parsedate_to_datetime

from aloe_jax.errors import AloeError
from aloe_jax.llm.access import Access, phrase
from aloe_jax.llm.error_response import ErrorResponse, Redirected

_PASSING = (408, 409, 425, 429)  # and all 5xx but those that say "never"
_NEVER = (501, 505)
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)s", re.ASCII)
_FOR_EVER = 1e9  # seconds; what is longer is no longer wait
# A server's name for a reply that was to be JSON and was not: this draw failed, another need not.
_GARBLED = ("json_validate_failed", "output_parse_failed")
_WITHOUT_CREDIT = ("insufficient_quota", "billing_hard_limit_reached")
_NO_ROOM = re.compile(
    r"context[ _](?:length|size|window)|maximum (?:context|sequence) length|maximum number of tokens|"
    r"input token count|too many tokens|prompt is too long|"
    r"max(?:imum)?[ _](?:completion[ _]|output[ _]|new[ _])?tokens\W{0,3}(?:is|are)? ?"
    r"(?:too (?:large|high|big)|exceed|must be (?:less|at most|smaller|between|in))",
    re.IGNORECASE,
)
_NO_ROOM_CODES = ("context_length_exceeded", "string_above_max_length")


class TransientError(Exception):
    """An attempt failed, another may not: an overloaded server, a lost connection, a reply cut in the middle.

    `fault` is a short name for counting, `retry_after` the seconds that the server asks to wait, `detail` its
    message without secrets.
    """

    def __init__(self, fault: str, retry_after: float | None = None, detail: str = "") -> None:
        super().__init__(f"{fault}: {detail}" if detail else fault)
        self.fault, self.retry_after, self.detail = fault, retry_after, detail


class GarbledError(Exception):
    """The server threw its model's answer away because it was not of the form that was asked for.

    Another draw may do better; `fault` is a short name for counting, `detail` the server's words without secrets.
    """

    def __init__(self, fault: str, detail: str = "") -> None:
        super().__init__(f"{fault}: {detail}" if detail else fault)
        self.fault, self.detail = fault, detail


def passing(status: int) -> bool:
    """Whether another attempt may be answered otherwise than by this status."""
    return status in _PASSING or (500 <= status < 600 and status not in _NEVER)


def no_room(refusal: ErrorResponse) -> bool:
    """Whether the prompt and the longest reply do not fit into the model together."""
    return refusal.status == 413 or refusal.code in _NO_ROOM_CODES or bool(_NO_ROOM.search(refusal.message))


def garbled(refusal: ErrorResponse) -> bool:
    """Whether the server has thrown its model's answer away because of its form."""
    return refusal.code in _GARBLED


def refused(access: Access, refusal: ErrorResponse) -> Exception:
    """The exception for an answer with an error: a TransientError, a GarbledError or an AloeError."""
    status, message = refusal.status, refusal.message
    # An account without credit answers 429, too, and will until somebody pays.
    if refusal.code in _WITHOUT_CREDIT:
        return access.refusal(status, message)
    if status <= 500 and status != 429 and no_room(refusal):  # what a gateway answers is about the way
        return access.no_room(status, message)
    if garbled(refusal):
        return GarbledError(f"{status} {refusal.code}", access.scrub(message))
    if passing(status):
        asked = retry_after(refusal.headers, refusal.details)
        return TransientError(phrase(status), asked, access.scrub(message))
    return access.refusal(status, message)


def meaning(access: Access, error: Exception) -> Exception:
    """What an exception of the wire means to who asked: an ErrorResponse, a TransientError, an AloeError, or itself.

    What comes back has no traceback: its frames know the request's headers.
    """
    match error:
        case ErrorResponse() | AloeError():
            return error.with_traceback(None)
        case TransientError():
            return TransientError(error.fault, error.retry_after, access.scrub(error.detail))
        case Redirected():
            return access.redirected(error.status, error.target)
        case UnicodeEncodeError():
            return AloeError(access.message("the prompt cannot be sent: it breaks within a character"))
    return error


def translated[T](send: Callable[[], T], meaning: Callable[[Exception], Exception]) -> T:
    """The value of `send`; what it raises is raised as what it means.

    Outside of the handler: the SDK's own exception, which knows the request's headers, goes no further.
    """
    try:
        return send()
    except Exception as error:
        fault = meaning(error)
    raise fault


def settled(access: Access, error: Exception) -> Exception:
    """What an exception means where no field of the request can be left out."""
    return refused(access, error) if isinstance(error, ErrorResponse) else error


def retry_after(headers: Mapping[str, str], details: object = (), now: float | None = None) -> float | None:
    """The longest wait in seconds that an answer asks for: Retry-After (seconds or date), google.rpc.RetryInfo."""
    waits = []
    given = headers.get("retry-after") or headers.get("Retry-After")
    if given:
        waits.append(_seconds(given.strip(), time.time() if now is None else now))
    for detail in details if isinstance(details, Iterable) else ():
        if isinstance(detail, Mapping) and str(detail.get("@type", "")).endswith("google.rpc.RetryInfo"):
            found = _DURATION.fullmatch(str(detail.get("retryDelay", "")))
            waits.append(min(float(found.group(1)), _FOR_EVER) if found else None)
    return max((wait for wait in waits if wait is not None), default=None)


def _seconds(given: str, now: float) -> float | None:
    if _NUMBER.fullmatch(given):
        return min(float(given), _FOR_EVER)
    try:
        return min(max(0.0, parsedate_to_datetime(given).timestamp() - now), _FOR_EVER)
    except (ValueError, OverflowError, TypeError):
        return None
