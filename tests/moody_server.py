"""A server of chat completions within the test's process, whose answers a test may spoil from one run to the next."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.standin.answers import play

# What may be wrong with an answer: (text or None for the good one, why it ended).
SPOILED: dict[str, tuple[str | None, str]] = {
    "truncated": ("", "length"),
    "fragment": ('{"reason": "It', "length"),
    "blocked": ("", "content_filter"),
    "empty": ("", "stop"),
    "garbage": ("I would rather not say.", "stop"),
    "ok": (None, "stop"),
}


@dataclass
class Asked:
    """One request: its id, its seed and its words."""

    id: str
    seed: int
    prompt: str


@dataclass
class MoodyServer:
    """`mood` says what is wrong with the answer to a request; `asked` are the requests since it was cleared."""

    url: str = ""
    mood: Callable[[Asked], str] = lambda asked: "ok"
    asked: list[Asked] = field(default_factory=list)

    def answer(self, body: dict[str, Any], id: str) -> dict[str, Any]:
        """The body of an answer."""
        said = {message["role"]: message["content"] for message in body["messages"]}
        one = Asked(id, body["seed"], said["user"])
        self.asked.append(one)
        text, ended = SPOILED[self.mood(one)]
        if text is None:
            text = json.dumps(play(said.get("system", ""), said["user"], random.Random(id)))
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": ended}
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "usage": usage, "choices": [choice]}


@contextmanager
def moody() -> Iterator[MoodyServer]:
    """Run one on a free port."""
    server = MoodyServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            data = json.dumps(server.answer(body, self.headers["X-Request-Id"])).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
