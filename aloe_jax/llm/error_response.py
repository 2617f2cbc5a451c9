"""What a server says is wrong, read from whatever body it sends it in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

_LONGEST = 600  # characters of a message that are kept
_TAG = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^<>]*>", re.IGNORECASE | re.DOTALL)
_WORDS = ("message", "msg", "detail", "details", "error", "errors", "error_description", "title", "reason")


class Redirected(Exception):
    """The server sends the request on to another address; `target` is that address without query and password."""

    def __init__(self, status: int, target: str) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.target = _address(target)


class ErrorResponse(Exception):
    """An answer with an error in it.

    `message` is the server's own words on one line (keys still in it; `Access.scrub` takes them out), `code` the
    name it gives to the fault, `fields` the names of the request's fields that it points at, `details` the list of
    the same name in an error of Google's, `headers` the answer's with names in lower case.
    """

    def __init__(
        self,
        status: int,
        message: str,
        headers: Mapping[str, str] | None = None,
        code: str = "",
        fields: tuple[str, ...] = (),
        details: object = (),
    ) -> None:
        super().__init__(f"status {status}")  # neither its text nor its repr has what the server said
        self.status, self.message, self.code, self.fields = status, message, code, fields
        self.headers, self.details = headers or {}, details

    @classmethod
    def read(cls, status: int, headers: Mapping[str, str], content: bytes) -> ErrorResponse:
        """The refusal in an answer of an error status, whatever its form: Google's, OpenAI's, FastAPI's, HTML."""
        body = load(content)
        if body is None:
            return cls(status, plain(content[: 1 << 16].decode("utf-8", "replace")), headers)
        return cls.of(status, body, headers)

    @classmethod
    def of(cls, status: int, body: object, headers: Mapping[str, str] | None = None) -> ErrorResponse:
        """The refusal in a body that was read as JSON."""
        inner = _inner(body)
        code = details = None
        fields: list[str] = []
        if isinstance(inner, Mapping):
            code, details = inner.get("code"), inner.get("details")
            if not isinstance(code, str):
                code = inner.get("type")
            if isinstance(inner.get("param"), str):
                fields.append(inner["param"])
        fields += _locations(body)
        message = plain("; ".join(dict.fromkeys(_said(inner))) or (json.dumps(body) if body else ""))
        return cls(status, message, headers, code if isinstance(code, str) else "", tuple(fields), details or ())


def load(content: bytes | str) -> object | None:
    """The JSON value of a body; None where there is none, or one that no program can hold."""
    try:
        value: object = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value


def plain(text: str, longest: int = _LONGEST) -> str:
    """`text` without HTML on one line of at most so many characters, every one of which can be shown and stored."""
    text = text[: 20 * longest]
    if "<" in text:
        text = _TAG.sub(" ", text)
    text = text.encode("utf-8", "replace").decode()
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= longest else f"{text[:longest]} …"


def _inner(body: object) -> object:
    """The error itself: some servers put it into a list, most under `error`."""
    if isinstance(body, list) and body:
        body = body[0]
    if isinstance(body, Mapping) and isinstance(body.get("error"), Mapping):
        return body["error"]
    return body


def _said(value: object, depth: int = 0) -> Iterator[str]:
    """The sentences in an error, outer ones first."""
    if isinstance(value, str):
        if value.strip():
            yield value.strip()
    elif isinstance(value, list) and depth < 4:
        for one in value[:5]:
            if isinstance(one, Mapping | str):
                yield from _said(one, depth + 1)
    elif isinstance(value, Mapping) and depth < 4:
        where = value.get("loc")
        field = ".".join(str(part) for part in where) + ": " if isinstance(where, list) and len(where) < 9 else ""
        for name in _WORDS:
            # Google's details are for programs.
            if name in value and not (name == "details" and "message" in value):
                for sentence in _said(value[name], depth + 1):
                    yield field + sentence
        metadata = value.get("metadata")
        if isinstance(metadata, Mapping) and isinstance(metadata.get("raw"), str):
            yield metadata["raw"]  # what the provider behind a gateway said


def _locations(value: object, depth: int = 0) -> Iterator[str]:
    """The last parts of all `loc` lists (FastAPI) and the `field` values (Google) in an error."""
    if depth > 6:
        return
    if isinstance(value, list):
        for one in value[:20]:
            yield from _locations(one, depth + 1)
    elif isinstance(value, Mapping):
        where = value.get("loc")
        if isinstance(where, list) and where:
            yield str(where[-1])
        for inner in value.values():
            yield from _locations(inner, depth + 1)


def _address(target: str) -> str:
    try:
        parts = urlsplit(target)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "another address"
    return plain(f"{parts.scheme}://{host}{parts.path}" if host else parts.path, 200) or "another address"
