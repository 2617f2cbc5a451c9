"""What a server can do to a call: hold it up, fill the memory, send the key elsewhere. For every provider."""

import gzip
import threading
import time
import tracemalloc
import zlib
from functools import cache

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.llm import dialect
from aloe_jax.llm.batch import GenaiBatch
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.protocol import Request, UnavailableError
from datagen.pool.embeddings import vectors_of
from datagen.settings import DatagenSettings
from tests.llm.remotes import KEY, PROVIDERS, Asked, role_at
from tests.standin.rogue import reply, rogue, said

GOOD = '{"preferred": "A"}'


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setattr(dialect, "_known", {})
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def server():
    with rogue() as server:
        yield server


@pytest.fixture(params=PROVIDERS)
def asked(request, server):
    server.seen.clear()
    return Asked(request.param, server.url)


def bad(asked, server, answer, **settings):
    """The message of the error after two attempts that were answered so."""
    server.answer = answer
    asked = Asked(asked.role.provider, server.url, **settings)
    with pytest.raises(UnavailableError) as caught:
        asked.complete()
    return str(caught.value)


def drip(first, piece, pause=0.1):
    """Bytes that never end: `first`, then `piece` again and again."""

    def give(seen):
        yield first
        for _ in range(600):
            time.sleep(pause)
            yield piece

    return give


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\n", b"X-More: x\r\n"),
        (HEAD + b"Content-Length: 100000\r\n\r\n", b" "),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 400 Bad\r\nContent-Length: 100000\r\n\r\n", b" "),
    ],
    ids=["status line", "headers", "body", "chunks", "continue", "error"],
)
def test_a_drip_ends_with_the_timeout(asked, server, first, piece):
    start = time.monotonic()
    assert "the last fault: timeout" in bad(asked, server, drip(first, piece), timeout=0.5)
    assert time.monotonic() - start < 4  # two attempts


@cache
def bomb():
    """300 MB of zeros in a few hundred kilobytes."""
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(pack.compress(b"\0" * 10_000_000) for _ in range(30)) + pack.flush()


@pytest.mark.parametrize("kind", ["length", "no length", "chunks", "gzip", "gzip in gzip", "many members"])
def test_a_flood_is_cut_off_before_it_fills_the_memory(asked, server, kind):
    def give(seen):
        if kind == "gzip":
            yield reply(200, bomb(), Content_Encoding="gzip")
        elif kind == "many members":
            yield reply(200, gzip.compress(b"\0" * 1_000_000) * 300, Content_Encoding="gzip")
        elif kind == "gzip in gzip":
            yield reply(200, gzip.compress(bomb()), Content_Encoding="gzip, gzip")
        else:
            yield (
                HEAD
                + {
                    "length": b"Content-Length: 300000000\r\n\r\n",
                    "no length": b"Connection: close\r\n\r\n",
                    "chunks": b"Transfer-Encoding: chunked\r\n\r\n",
                }[kind]
            )
            for _ in range(300):
                yield (b"f4240\r\n" if kind == "chunks" else b"") + b" " * 1_000_000 + b"\r\n" * (kind == "chunks")

    tracemalloc.start()
    try:
        message = bad(asked, server, give)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert ("compressed by gzip, gzip" if kind == "gzip in gzip" else "larger than 16 MiB") in message
    assert peak < 100 << 20


@pytest.mark.parametrize(
    ("body", "headers", "fault"),
    [
        (b"not gzip", {"Content_Encoding": "gzip"}, "not gzip"),
        (gzip.compress(b"{}" * 1000, mtime=0)[:-9], {"Content_Encoding": "gzip"}, "ends in the middle"),
        (b"{}", {"Content_Encoding": "br"}, "compressed by br"),
        (b'{"choices": "\xe9\xff"}', {}, "not in UTF-8"),
        (b"<html><style>p {}</style><body>Sign in to <b>WiFi</b></body></html>", {}, "no JSON: Sign in to WiFi"),
        (b"", {}, "no JSON"),
        (b"[" * 200_000, {}, "no JSON"),
        (b"null", {}, "no JSON"),
        (b"[]", {}, "no JSON object"),
        (b'"yes"', {}, "no JSON object"),
        (b'{"choices": null, "candidates": [5]}', {}, "not of the expected form"),
        (b'{"choices": [{"message": null}], "candidates": [{"content": {"parts": [5]}}]}', {}, "not of the expected"),
        (b'{"x": ' + b"9" * 5000 + b"}", {}, "no JSON"),
        (b'{"hello": "world"}', {}, 'not of the expected form: {"hello": "world"}'),
    ],
)
def test_an_unreadable_reply_is_shown(asked, server, body, headers, fault):
    message = bad(asked, server, lambda seen: reply(200, body, **headers))
    assert fault in message and "\n" not in message and len(message) < 900


def test_a_reply_may_be_compressed_and_may_have_a_mark_in_front(asked, server):
    import json

    content = json.dumps(said(asked.role.provider, GOOD)).encode()
    for body, headers in (
        (gzip.compress(content, mtime=0), {"Content_Encoding": "gzip"}),
        (zlib.compress(content), {"Content_Encoding": "deflate"}),
        (b"\xef\xbb\xbf" + content, {}),
        (content, {"Content_Type": "image/png; charset=utf-99"}),
    ):
        server.answer = lambda seen, body=body, headers=headers: reply(200, body, **headers)
        assert asked.complete().text == GOOD


# ---------------------------------------------------------------- keys go nowhere else


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("to", ["another host", "another port", "the same", "a path", "with a password"])
def test_a_redirect_is_refused_and_nothing_arrives_there(asked, server, status, to):
    with rogue(lambda seen: reply(200, said(asked.role.provider, GOOD))) as sink:
        port = sink.url.rpartition(":")[2]
        target = {
            "another host": f"http://localhost:{port}/elsewhere?token=s3cret",
            "another port": f"{sink.url}/elsewhere",
            "the same": f"{server.url}/again",
            "a path": "/again",
            "with a password": f"http://user:s3cret@127.0.0.1:{port}/elsewhere",
        }[to]
        server.answer = lambda seen: reply(status, "", Location=target)
        with pytest.raises(AloeError, match=rf"^roles\.judge: m\d+ .*{status} .*sends requests on to ") as caught:
            asked.complete()
        assert sink.seen == []
    assert len(server.seen) == 1 and KEY in str(server.seen[0].headers)
    message = str(caught.value)
    assert "give its address as roles.judge.endpoint" in message
    assert "s3cret" not in message and KEY not in message and "\n" not in message
    assert asked.clock.waits == []


def batch_call(server):
    role = role_at("genai", server.url)
    service = GenaiBatch(role, "judge", sleep=lambda seconds: None)
    return lambda: service.submit([Request("judge", {}, "s", "p", {}, 0.0, 1)], "label")


def batch_poll(server):
    service = GenaiBatch(role_at("genai", server.url), "judge", sleep=lambda seconds: None)
    return lambda: service.poll("batches/b1")


@pytest.fixture
def embedding(server, tmp_path):
    writer = {"provider": "genai", "model": "m", "endpoint": server.url, "key_variable": "MY_KEY", "attempts": 1}
    settings = DatagenSettings.model_validate(
        {
            "output": str(tmp_path),
            "personas": {"vectors": "gemini"},
            "roles": {"persona_writer": writer | {"timeout": 1.0}},
        }
    )
    with Ledger(tmp_path / "journal.sqlite") as ledger:
        vectors = vectors_of(settings, ledger)
        yield lambda: vectors.transform(["a text"])


@pytest.mark.parametrize("make", [batch_call, batch_poll], ids=["batch", "a job"])
def test_batches_follow_no_redirect(server, make):
    with rogue() as sink:
        server.answer = lambda seen: reply(307, "", Location=f"{sink.url}/elsewhere")
        with pytest.raises(AloeError, match="sends requests on to http://127"):
            make(server)()
        assert sink.seen == []


def test_embeddings_follow_no_redirect_and_wait_for_no_drip(server, embedding):
    with rogue() as sink:
        server.answer = lambda seen: reply(308, "", Location=f"{sink.url}/elsewhere")
        with pytest.raises(AloeError, match="sends requests on to http://127"):
            embedding()
        assert sink.seen == []
    start = time.monotonic()
    server.answer = drip(HEAD + b"Content-Length: 100000\r\n\r\n", b" ")
    with pytest.raises(UnavailableError, match="timeout"):
        embedding()
    assert time.monotonic() - start < 4
    for body in ({"embeddings": [{"values": ["x"]}]}, {"embeddings": 5}, "[" * 100_000, "no"):
        server.answer = lambda seen, body=body: reply(200, body)
        with pytest.raises(AloeError) as caught:
            embedding()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["whole", "cut", "backwards", "quoted", "base64"])
def test_a_server_that_repeats_the_key_in_its_words(asked, server, monkeypatch, form):
    import base64
    from urllib.parse import quote

    key = "Xq7+vWm2/Zt9=Rb4Yn8"
    monkeypatch.setenv("MY_KEY", key)
    echo = {
        "whole": key,
        "cut": f"{key[:-3]} and ***{key[-7:]}",
        "backwards": key[::-1],
        "quoted": quote(key, safe=""),
        "base64": base64.b64encode(key.encode()).decode(),
    }[form]
    for answer in (
        reply(401, {"error": {"message": f"bad key {echo}"}}),
        reply(403, f"<html>{echo}</html>"),
        reply(200, f"no JSON, {echo}"),
        reply(200, {"error": {"message": echo, "code": 402}}),
    ):
        asked = Asked(asked.role.provider, server.url, attempts=1)
        server.answer = lambda seen, answer=answer: answer
        with pytest.raises(AloeError) as caught:
            asked.complete()
        assert echo not in str(caught.value) and "[key]" in str(caught.value)


def test_a_model_that_knows_the_key_does_not_tell_it(asked, server):
    server.answer = lambda seen: reply(200, said(asked.role.provider, f'{{"preferred": "A", "reason": "{KEY}"}}'))
    assert asked.complete().text == '{"preferred": "A", "reason": "[key]"}'


def test_a_proxy_of_the_environment_is_used(asked, server, monkeypatch):
    server.answer = lambda seen: reply(200, said(asked.role.provider, GOOD))
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "nothing.example")
    elsewhere = Asked(asked.role.provider, "http://models.example")
    assert elsewhere.complete().text == GOOD
    assert server.seen[-1].line.startswith("POST http://models.example/")
    monkeypatch.setenv("no_proxy", "models.example")
    with pytest.raises(UnavailableError, match="connection lost"):
        elsewhere.complete()


@pytest.mark.parametrize("variable", ["OPENAI_BASE_URL", "GOOGLE_GEMINI_BASE_URL"])
def test_no_variable_of_the_environment_sends_the_key_elsewhere(monkeypatch, variable):
    with rogue() as sink, rogue() as proxy:
        monkeypatch.setenv(variable, f"{sink.url}/v1")
        monkeypatch.setenv("https_proxy", proxy.url)  # so that nothing leaves this machine
        monkeypatch.delenv("no_proxy", raising=False)
        provider = "openai" if variable.startswith("OPENAI") else "genai"
        asked = Asked(provider, "", endpoint=None, attempts=1)
        with pytest.raises(UnavailableError):
            asked.complete()
        assert sink.seen == []
        host = "api.openai.com" if provider == "openai" else "generativelanguage.googleapis.com"
        assert [seen.line for seen in proxy.seen] == [f"CONNECT {host}:443 HTTP/1.1"]
        assert KEY not in str(proxy.seen)


# ---------------------------------------------------------------- figures


BILLIONS = 10**9


@pytest.mark.parametrize(
    "figure", [-5, 1e30, float("inf"), float("-inf"), float("nan"), "many", None, [], {}, True, 1.5, BILLIONS, 10**400]
)
def test_a_count_of_tokens_that_is_none_is_unknown(asked, server, figure):
    provider = asked.role.provider
    names = (
        ("prompt_tokens", "completion_tokens") if provider == "openai" else ("promptTokenCount", "candidatesTokenCount")
    )
    server.answer = lambda seen: reply(200, said(provider, GOOD, **dict.fromkeys(names, figure)))
    asked = Asked(provider, server.url, price={"input": 1_000_000, "output": 1_000_000})
    answer = asked.complete()
    assert (answer.text, answer.input_tokens, answer.output_tokens) == (GOOD, 0, 0)
    # The budget counts what it must have been about, rather than nothing or less.
    assert 5 < answer.cost < 50


@pytest.mark.parametrize("usage", [None, 5, "many", []])
def test_usage_that_is_none_is_unknown(asked, server, usage):
    body = said(asked.role.provider, GOOD)
    body["usage" if asked.role.provider == "openai" else "usageMetadata"] = usage
    server.answer = lambda seen: reply(200, body)
    if asked.role.provider != "openai" and usage not in (None, []):
        assert "not of the expected form" in bad(asked, server, server.answer)
    else:
        assert asked.complete().input_tokens == 0


@pytest.mark.parametrize("text", ["half \ud83d", '{"preferred": "A", "reason": "\udc00"}', "\ud83d not json"])
def test_half_a_character_is_an_unreadable_answer_that_can_be_stored(asked, server, tmp_path, text):
    server.answer = lambda seen: reply(200, said(asked.role.provider, text))
    answer = asked.complete()
    assert answer.outcome == "unreadable" and "\ufffd" in answer.text
    assert answer.detail == "the reply breaks within a character"
    with Ledger(tmp_path / "journal.sqlite") as ledger:
        request = Request("judge", {}, "", "p", {}, 0.0, 1)
        assert ledger.complete(asked.llm, request) == ledger.find_call(asked.llm.name, request)
        assert ledger.usage()[f"{asked.llm.name}/judge"].outcomes == {"unreadable": 1}


def test_threads_have_deadlines_of_their_own(asked, server):
    def give(seen):
        slow = seen.json()
        if "slow" in str(slow):
            time.sleep(1.5)
        yield reply(200, said(asked.role.provider, GOOD))

    server.answer = give
    results = {}

    def work(name, timeout):
        one = Asked(asked.role.provider, server.url, timeout=timeout, attempts=1)
        try:
            results[name, timeout] = one.complete(prompt=name).text
        except UnavailableError as error:
            results[name, timeout] = "timeout" if "timeout" in str(error) else str(error)

    threads = [
        threading.Thread(target=work, args=(name, timeout)) for name in ("slow", "quick") for timeout in (0.8, 20.0)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == {("slow", 0.8): "timeout", ("slow", 20.0): GOOD, ("quick", 0.8): GOOD, ("quick", 20.0): GOOD}


def test_half_a_character_in_a_prompt_is_told_and_not_sent(asked, server):
    with pytest.raises(AloeError, match="the prompt cannot be sent: it breaks within a character"):
        asked.complete(prompt="half \ud83d")
    assert server.seen == []
