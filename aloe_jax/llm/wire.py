"""HTTP for all remote models: one deadline and one largest size for a call, and no host but the one that was asked."""

from __future__ import annotations

import math
import ssl
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit

import httpcore2
import httpx2

from aloe_jax.llm.error_response import ErrorResponse, Redirected, plain
from aloe_jax.llm.failures import TransientError

LARGEST = 16 << 20  # bytes of a reply, decompressed
_KEEP_OPEN = 60.0  # seconds for which an idle connection is kept
_PIECE = 1 << 16  # bytes written before the deadline is looked at again
_BODILY = ("content-", "transfer-encoding")  # headers that no longer hold for a body that was read
_HTTP = 200, 300, 400  # first status of success, of redirects and of errors

_SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


@dataclass(frozen=True)
class Answer:
    """A reply of status 2xx, whole and decompressed."""

    status: int
    headers: list[tuple[str, str]]
    content: bytes


class Wire:
    """Sends requests for several threads; connections stay open between them.

    A call ends after its timeout, however slowly its headers or its body arrive. A reply may have `largest` bytes,
    before and after decompression. Redirects are refused: the headers that hold the key go to no other address.
    `slowness` times the timeout is what a whole call may take, where the timeout is that of one read.
    """

    def __init__(self, largest: int = LARGEST, slowness: float = 1.0) -> None:
        self._largest, self._slowness = largest, slowness
        self._pools: dict[tuple[bool, str | None], httpcore2.ConnectionPool] = {}  # by encryption and proxy
        self._lock = threading.Lock()

    def send(
        self, method: str, url: str, headers: Iterable[tuple[str, str]], content: bytes, timeout: float | None
    ) -> Answer:
        """One request.

        Raises TransientError for what another attempt may mend, ErrorResponse for an error status, Redirected for a
        redirect, but no AloeError: who asked knows the role that it is about.
        """
        sent = [(name, value) for name, value in headers if name.lower() != "accept-encoding"]
        sent.append(("Accept-Encoding", "gzip"))
        limits = dict.fromkeys(("connect", "read", "write", "pool"), timeout)
        with (
            _deadline(math.inf if timeout is None else timeout * self._slowness),
            _faults(),
            self._pool(url).stream(
                method,
                url,
                headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent],
                content=content,
                extensions={"timeout": limits},
            ) as response,
        ):
            said = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers]
            found = {name.lower(): value for name, value in said}
            status = int(response.status)
            if _HTTP[1] <= status < _HTTP[2] and "location" in found:
                raise Redirected(status, found["location"])
            whole = b"".join(_decoded(response.iter_stream(), found.get("content-encoding", ""), self._largest))
        if not _HTTP[0] <= status < _HTTP[1]:
            raise ErrorResponse.read(status, found, whole)
        try:
            whole.decode()
        except UnicodeDecodeError:
            raise TransientError("unreadable reply", detail="not in UTF-8") from None
        kept = [(name, value) for name, value in said if not name.lower().startswith(_BODILY)]
        return Answer(status, [*kept, ("Content-Type", "application/json")], whole)

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()

    def __del__(self) -> None:
        with suppress(Exception):  # the interpreter may be on its way out
            self.close()

    def _pool(self, url: str) -> httpcore2.ConnectionPool:
        encrypted, proxy = kind = url.startswith("https:"), _proxy(url)
        with self._lock:
            if kind not in self._pools:
                self._pools[kind] = httpcore2.ConnectionPool(
                    ssl_context=_authorities() if encrypted else None,
                    proxy=None if proxy is None else _proxy_settings(proxy),
                    max_connections=None,
                    max_keepalive_connections=None,
                    keepalive_expiry=_KEEP_OPEN,
                    network_backend=_Network(),
                )
            return self._pools[kind]


class Transport(httpx2.BaseTransport):
    """A Wire for clients of httpx2, as OpenAI's SDK and google-genai are."""

    def __init__(self, largest: int = LARGEST, slowness: float = 1.0) -> None:
        self._wire = Wire(largest, slowness)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request and read its whole reply; see `Wire.send` for what is raised."""
        timeout = request.extensions.get("timeout", {}).get("read")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
        answer = self._wire.send(request.method, str(request.url), headers, request.read(), timeout)
        # A success is one, whatever its number: the SDKs know no other.
        return httpx2.Response(200, headers=answer.headers, content=answer.content, request=request)

    def close(self) -> None:
        """Close all connections."""
        self._wire.close()


# ---------------------------------------------------------------- bodies


def _decoded(pieces: Iterable[bytes], encoding: str, largest: int) -> Iterator[bytes]:
    """The pieces of a body, decompressed. Raises TransientError when they are too many, or damaged."""
    encoding = encoding.strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise TransientError("unreadable reply", detail=f"compressed by {plain(encoding, 40)}, which was not asked for")
    unpack = None if encoding in ("", "identity") else zlib.decompressobj(47)
    read = made = 0
    for piece in pieces:
        read += len(piece)
        if read > largest:
            raise _too_large(largest)
        if unpack is None:
            yield piece
            continue
        waiting = piece
        while waiting:
            if unpack.eof:  # another member of the same file
                unpack = zlib.decompressobj(47)
            try:
                out = unpack.decompress(waiting, largest - made + 1)
            except zlib.error:
                raise TransientError("unreadable reply", detail=f"not {encoding}, as its header says") from None
            made += len(out)
            if made > largest:
                raise _too_large(largest)
            yield out
            waiting = unpack.unconsumed_tail or unpack.unused_data
    if unpack is not None and read and not unpack.eof:
        raise TransientError("connection lost", detail="the compressed reply ends in the middle")


def _too_large(largest: int) -> TransientError:
    return TransientError("unreadable reply", detail=f"larger than {largest >> 20} MiB")


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except httpcore2.TimeoutException:
        fault = TransientError("timeout")
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.ProxyError) as error:
        # A server that breaks the protocol has mostly been cut off while it spoke.
        fault = TransientError("connection lost", detail=str(error) or type(error).__name__)
    else:
        return
    raise fault


@cache
def _authorities() -> ssl.SSLContext:
    """Whose signatures are believed; reading them takes a while, so once a process."""
    return httpx2.create_ssl_context()


# ---------------------------------------------------------------- proxies


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for an address, as curl and the SDKs read it."""
    parts = urlsplit(url)
    named = urllib.request.getproxies()
    proxy = named.get(parts.scheme) or named.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _proxy_settings(proxy: str) -> httpcore2.Proxy:
    # httpx2 reads the address and takes the password out of it.
    found = httpx2.Proxy(proxy)
    return httpcore2.Proxy(str(found.url), auth=found.raw_auth)


# ---------------------------------------------------------------- the deadline


class _Until(threading.local):
    """The moment, by `time.monotonic`, at which this thread's call has to be over."""

    at = math.inf

    def left(self, timeout: float | None) -> float | None:
        left = self.at - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout
        left = left if timeout is None else min(left, timeout)
        return None if left == math.inf else left


_until = _Until()


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    _until.at = time.monotonic() + seconds
    try:
        yield
    finally:
        _until.at = math.inf


class _Stream(httpcore2.NetworkStream):
    """A connection on which no single read or write outlasts the deadline."""

    def __init__(self, inner: httpcore2.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _until.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE):
            self._inner.write(buffer[start : start + _PIECE], _until.left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _until.left(timeout)))

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)


class _Network(httpcore2.NetworkBackend):
    """The system's network under the deadline."""

    def __init__(self) -> None:
        self._inner = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[_SocketOption] | None = None,
    ) -> httpcore2.NetworkStream:
        return _Stream(
            self._inner.connect_tcp(host, port, _until.left(timeout), local_address, list(socket_options or ()))
        )
