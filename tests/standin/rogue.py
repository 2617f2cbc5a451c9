"""A server that answers with whatever bytes a test gives it, as fast or as slowly as it likes."""

from __future__ import annotations

import json
import re
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Bytes = bytes | Iterable[bytes]


@dataclass(frozen=True)
class Seen:
    """A request as it arrived; names of headers in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """Its body."""
        return json.loads(self.body)


@dataclass
class Rogue:
    """A running server: `answer` may be replaced at any time, `seen` are the requests so far."""

    url: str
    answer: Callable[[Seen], Bytes]
    seen: list[Seen] = field(default_factory=list)


@contextmanager
def rogue(answer: Callable[[Seen], Bytes] | None = None) -> Iterator[Rogue]:
    """Serve on a free port of the loopback, a connection for every request."""
    made = Rogue("", answer or (lambda seen: reply(500, {})))

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = self.rfile.readline()
                if not line:
                    return
                head += line
            first, *rest = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest if line)}
            seen = Seen(first, headers, self.rfile.read(int(headers.get("content-length", "0"))))
            made.seen.append(seen)
            given = made.answer(seen)
            try:
                for piece in [given] if isinstance(given, bytes) else given:
                    self.wfile.write(piece)
                    self.wfile.flush()
            except OSError:
                pass  # the client has gone

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


def reply(status: int, body: object, **headers: str) -> bytes:
    """A whole HTTP reply; `body` is bytes, text, or what JSON is made of. `Retry_After` is the header Retry-After."""
    content = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    named = {"Content-Type": "application/json", "Content-Length": str(len(content)), "Connection": "close"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode("latin-1") + content


def said(provider: str, text: object, **usage: object) -> dict[str, Any]:
    """The body of a good reply with this text, in the words of a provider."""
    if provider == "openai":
        usage = usage or {"prompt_tokens": 5, "completion_tokens": 6}
        message = {"role": "assistant", "content": text}
        return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
    usage = usage or {"promptTokenCount": 5, "candidatesTokenCount": 6}
    finish: str | int = 1 if provider == "gemini" else "STOP"
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": finish}
    return {"candidates": [candidate], "usageMetadata": usage}


def model_of(seen: Seen) -> str:
    """The model that a request is for."""
    found = re.search(r"/models/([^:/]+):", seen.line)
    return found.group(1) if found else str(seen.json().get("model"))
