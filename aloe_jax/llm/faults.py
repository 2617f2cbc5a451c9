"""What goes wrong with one attempt at a call, told apart: worth another attempt, or not."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from aloe_jax.llm.access import Access

TRANSIENT = (408, 429, 500, 502, 503, 504)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)s")


class TransientError(Exception):
    """An attempt failed, another may not: an overloaded server, a lost connection, a reply cut in the middle.

    `fault` is a short name for counting, `retry_after` the seconds that the server asks to wait, `detail` its
    message without secrets.
    """

    def __init__(self, fault: str, retry_after: float | None = None, detail: str = "") -> None:
        super().__init__(f"{fault}: {detail}" if detail else fault)
        self.fault, self.retry_after, self.detail = fault, retry_after, detail


def refused(
    access: Access, status: int, message: str, headers: Mapping[str, str], details: Any = (), code: str = ""
) -> Exception:
    """The exception for an answer with an error status: a TransientError or an AloeError.

    `details` is the list of the same name in an error of Google's, `code` the name of an error of OpenAI's.
    """
    # An account without credit answers 429, too, and will until somebody pays.
    if code == "insufficient_quota":
        return access.refusal(status, message)
    if status in TRANSIENT:
        fault = f"{status} {HTTPStatus(status).phrase}"
        return TransientError(fault, retry_after(headers, details), access.scrub(message))
    return access.refusal(status, message)


def retry_after(headers: Mapping[str, str], details: Any = (), now: float | None = None) -> float | None:
    """The longest wait in seconds that an answer asks for: Retry-After (seconds or date), google.rpc.RetryInfo."""
    waits = []
    given = headers.get("retry-after") or headers.get("Retry-After")
    if given:
        waits.append(_seconds(given.strip(), time.time() if now is None else now))
    for detail in details if isinstance(details, Iterable) else ():
        if isinstance(detail, Mapping) and str(detail.get("@type", "")).endswith("google.rpc.RetryInfo"):
            found = _DURATION.fullmatch(str(detail.get("retryDelay", "")))
            waits.append(float(found.group(1)) if found else None)
    return max((wait for wait in waits if wait is not None), default=None)


def _seconds(given: str, now: float) -> float | None:
    if _NUMBER.fullmatch(given):
        return float(given)
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - now)
    except (ValueError, OverflowError):
        return None
