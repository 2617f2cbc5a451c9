"""A stand-in for Google Cloud Storage: the part of its JSON protocol that gcsfs and TensorStore speak, in memory.

Like the real one it knows objects only: no directories, no renaming, no appending, and an object is there all at once
or not at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Stored:
    """One object."""

    content: bytes
    generation: int
    changed: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))


class Bucket(ThreadingHTTPServer):
    """Serves one bucket of any name at `url` until `shutdown`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, tuple[str, bytearray]] = {}
        self.generation = 0
        self.turn = threading.Lock()
        self.writes: list[str] = []  # names, in the order in which they were written
        self.unknown: list[str] = []
        self.refuse_after: int | None = None  # writes after which there is no more room
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is part of the tests."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def names(self, prefix: str = "") -> list[str]:
        return sorted(name for name in self.objects if name.startswith(prefix))

    def text(self, name: str) -> str:
        return self.objects[name].content.decode()

    def put(self, name: str, content: bytes) -> Stored:
        self.generation += 1
        self.objects[name] = Stored(content, self.generation)
        self.writes.append(name)
        return self.objects[name]


class Request(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Bucket

    def log_message(self, *_: object) -> None:
        """The tests have their own output."""

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        body = self._body()
        with self.server.turn:
            try:
                status, headers, content = self._respond(parts.path, body)
            except KeyError:
                status, headers, content = self._failed(404, "No such object")
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _answer

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    # ---------------------------------------------------------------- what is asked

    def _respond(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:  # noqa: PLR0911
        if path.startswith("/batch/"):
            return self._batch(body)
        if path.startswith("/session/"):
            return self._continue_upload(path, body)
        place = re.fullmatch(r"(?:/upload|/download)?/storage/v1/b/([^/]+)(?:/o(?:/(.*))?)?", path)
        if place is None:
            self.server.unknown.append(f"{self.command} {self.path}")
            return self._failed(400, f"the stand-in does not know {self.command} {self.path}")
        bucket, name = place[1], place[2]
        if path.startswith("/upload/"):
            return self._upload(bucket, body)
        if name is None:
            return self._list(bucket) if path.endswith("/o") else self._json({"name": bucket, "kind": "storage#bucket"})
        copy = re.fullmatch(r"(.+)/(?:rewriteTo|copyTo)/b/([^/]+)/o/(.+)", name)
        if copy is not None:
            stored = self.server.put(unquote(copy[3]), self.server.objects[unquote(copy[1])].content)
            return self._json({"done": True, "resource": self._describe(bucket, unquote(copy[3]), stored)})
        name = unquote(name)
        stored = self.server.objects[name]
        if self.command == "DELETE":
            del self.server.objects[name]
            return 204, {}, b""
        if self.query.get("alt") == "media":
            return self._content(stored)
        return self._json(self._describe(bucket, name, stored))

    def _list(self, bucket: str) -> tuple[int, dict[str, str], bytes]:
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter")
        items, prefixes = [], dict[str, None]()
        for name in self.server.names(prefix):
            if not self.query.get("startOffset", "") <= name < self.query.get("endOffset", "\U0010ffff"):
                continue
            below = name[len(prefix) :]
            if delimiter and delimiter in below:
                prefixes[prefix + below.split(delimiter)[0] + delimiter] = None
            else:
                items.append(self._describe(bucket, name, self.server.objects[name]))
        return self._json({"kind": "storage#objects", "items": items, "prefixes": list(prefixes)})

    def _content(self, stored: Stored) -> tuple[int, dict[str, str], bytes]:
        headers = {"x-goog-generation": str(stored.generation), "Content-Type": "application/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        total = len(stored.content)
        if wanted is None:
            return 200, headers, stored.content
        start = int(wanted[1]) if wanted[1] else max(0, total - int(wanted[2]))
        end = min(int(wanted[2]) + 1 if wanted[1] and wanted[2] else total, total)
        if start >= total:
            return 416, {"Content-Range": f"bytes */{total}"}, b""
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{total}"
        return 206, headers, stored.content[start:end]

    def _upload(self, bucket: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        kind = self.query["uploadType"]
        if kind == "multipart":
            mark = b"--" + self._boundary(self.headers["Content-Type"])
            _, first, second, _ = body.split(mark)
            details = json.loads(first.split(b"\r\n\r\n" if b"\r\n\r\n" in first else b"\n\n", 1)[1])
            content = second.split(b"\r\n\r\n" if b"\r\n\r\n" in second[:200] else b"\n\n", 1)[1]
            content = content.removesuffix(b"\n").removesuffix(b"\r")
            return self._store(bucket, details["name"], content)
        if kind == "resumable":
            name = self.query.get("name") or json.loads(body)["name"]
            number = str(len(self.server.uploads))
            self.server.uploads[number] = (name, bytearray())
            return 200, {"Location": f"{self.server.url}/session/{bucket}/{number}"}, b""
        return self._store(bucket, self.query["name"], body)

    def _continue_upload(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        _, _, bucket, number = path.split("/")
        name, received = self.server.uploads[number]
        received += body
        if (self.headers.get("Content-Range") or "/1").endswith("/*"):
            return 308, {"Range": f"bytes=0-{len(received) - 1}"}, b""
        return self._store(bucket, name, bytes(received))

    def _store(self, bucket: str, name: str, content: bytes) -> tuple[int, dict[str, str], bytes]:
        if self.server.refuse_after is not None and len(self.server.writes) >= self.server.refuse_after:
            return self._failed(403, "the bucket takes no more")
        wanted, now = self.query.get("ifGenerationMatch"), self.server.objects.get(name)
        if wanted is not None and int(wanted) != (now.generation if now else 0):
            return self._failed(412, "Precondition Failed")
        return self._json(self._describe(bucket, name, self.server.put(name, content)))

    def _batch(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Several deletions in one request."""
        answers = []
        for line in re.findall(rb"^DELETE (\S+)", body, re.M):
            name = unquote(urlsplit(line.decode()).path.split("/o/", 1)[1])
            status = "204 No Content" if self.server.objects.pop(name, None) else "404 Not Found"
            answers.append(f"Content-Type: application/http\r\n\r\nHTTP/1.1 {status}\r\n\r\n\r\n")
        text = "".join(f"--part\r\n{answer}" for answer in answers) + "--part--\r\n"
        return 200, {"Content-Type": "multipart/mixed; boundary=part"}, text.encode()

    # ---------------------------------------------------------------- how it is said

    @staticmethod
    def _boundary(kind: str) -> bytes:
        found = re.search(r'boundary="?([^";]+)', kind)
        assert found is not None
        return found[1].strip("'").encode()

    def _describe(self, bucket: str, name: str, stored: Stored) -> dict[str, Any]:
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": bucket,
            "size": str(len(stored.content)),
            "generation": str(stored.generation),
            "metageneration": "1",
            "updated": stored.changed,
            "timeCreated": stored.changed,
            "etag": str(stored.generation),
            "md5Hash": base64.b64encode(hashlib.md5(stored.content).digest()).decode(),
            "crc32c": base64.b64encode(zlib.crc32(stored.content).to_bytes(4, "big")).decode(),
        }

    @staticmethod
    def _json(value: Any) -> tuple[int, dict[str, str], bytes]:
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()

    def _failed(self, status: int, why: str) -> tuple[int, dict[str, str], bytes]:
        return status, {}, self._json({"error": {"code": status, "message": why}})[2]
