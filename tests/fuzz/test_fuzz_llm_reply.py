"""The door through which a server's reply comes in: HTTP bodies of all providers, and the texts in them."""

import contextlib
import json
import sqlite3
from email.utils import formatdate

import pytest
from hypothesis import strategies as st

from aloe_jax.errors import AloeError
from aloe_jax.llm import dialect, notices, openai
from aloe_jax.llm.access import Access
from aloe_jax.llm.error_response import ErrorResponse
from aloe_jax.llm.failures import GarbledError, TransientError, refused, retry_after
from aloe_jax.llm.gemini import _named
from aloe_jax.llm.genai import read_response
from aloe_jax.llm.protocol import Completion, UnavailableError
from aloe_jax.llm.responses import body_of
from aloe_jax.llm.settings import RoleSettings
from aloe_jax.roles import (
    Inferred,
    PreferredDialogue,
    PreferredReply,
    Rating,
    Texts,
    UserMessage,
    WrittenReply,
    parse_answer,
)
from tests.fuzz.harness import fuzz, one_line
from tests.llm.remotes import KEY, PROVIDERS, Asked
from tests.standin.rogue import reply, rogue

pytestmark = pytest.mark.soak

FORMS = (PreferredDialogue, Inferred, Rating, WrittenReply, Texts, UserMessage, PreferredReply)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setattr(dialect, "_known", {})


# ---------------------------------------------------------------- inputs

NAMES = (
    "choices", "message", "content", "finish_reason", "usage", "prompt_tokens", "completion_tokens", "refusal", "error",
    "code", "type", "text", "param", "detail", "loc", "msg", "metadata", "raw", "reasoning", "reasoning_content",
    "candidates", "parts", "thought", "finishReason", "finishMessage", "safetyRatings", "blocked", "category",
    "promptFeedback", "blockReason", "usageMetadata", "promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount",
)  # fmt: skip
WORDS = (
    "stop", "length", "STOP", "MAX_TOKENS", "SAFETY", "content_filter", "text", "thinking", "json_validate_failed",
    "insufficient_quota", "context_length_exceeded", "seed", "temperature", "'seed' is not supported", "max_tokens",
    '{"rating": 5}', "<think>", "</think>", "half \ud83d", KEY, "\0", "429", "503",
)  # fmt: skip
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.sampled_from([0, 1, 2, 3, 4, 99, 400, 404, 429, 500, 503, 10**400])
    | st.floats()
    | st.sampled_from(WORDS)
    | st.text(max_size=20)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=30,
)
# Bodies that are nearly right, with a part or two replaced.
GOOD = (
    {
        "choices": [{"message": {"content": '{"rating": 5}', "refusal": None}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4},
    },
    {
        "candidates": [
            {
                "content": {"parts": [{"text": '{"rating": 5}', "thought": False}]},
                "finishReason": 1,
                "finishMessage": "",
                "safetyRatings": [{"category": 7, "blocked": True}],
            }
        ],
        "promptFeedback": {"blockReason": 1},
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4, "thoughtsTokenCount": 1},
    },
    {"error": {"code": 400, "message": "no", "status": "X", "details": [{"@type": "x.google.rpc.RetryInfo"}]}},
    [{"error": {"code": "503", "message": "no", "param": "seed", "type": "t"}}],
    {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
)


@st.composite
def spoiled(draw):
    """A body that is nearly right."""
    body = json.loads(json.dumps(draw(st.sampled_from(GOOD))))
    for _ in range(draw(st.integers(0, 3))):
        at, where = body, None
        while isinstance(at, dict | list) and at:
            where, key = at, draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            at = at[key]
            if draw(st.booleans()):
                break
        if where is not None:
            where[key] = draw(VALUES)
    return body


BODIES = st.one_of(
    st.binary(max_size=200),
    (VALUES | spoiled()).map(lambda value: json.dumps(value).encode()),
    spoiled().flatmap(
        lambda value: st.integers(0, 300).map(lambda end: json.dumps(value, ensure_ascii=True).encode()[:end])
    ),
    st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"", b"\xef\xbb\xbf{}", b"9" * 5000, "{}".encode("utf-16")]),
)
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "content-type", "x-more"]),
    st.sampled_from(["0", "5", "-1", "1e9", "9" * 400, "nan", "\u0661", "soon", formatdate(0), formatdate(4e9)])
    | st.text(max_size=20),
)
TAGS = (
    "<think>", "</think>", "[THINK]", "[/THINK]", "◁/think▷", "<|channel|>final<|message|>",
    "<|channel|>analysis<|message|>",
    "assistantfinal", "```json\n", "```", "{", "}", "[", "]", '"', "\\", "\n", "\ufeff", "\ud83d", "\0", ",", ":",
    '{"rating": 5}', '{"rating": 1}', '{"reply": "Yes."}', '{"preferred": "A"}', '{"texts": ["a"]}', '{"rating": 9}',
    '{"message": "*x*"}', '{"profile": "", "personality": ""}', '{"a": ', '"rating": 3',
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(TAGS) | st.text(max_size=10), max_size=25).map("".join) | st.builds(
    lambda piece, count: piece * count, st.sampled_from(TAGS), st.integers(1, 50_000)
)


# ---------------------------------------------------------------- checks

_journal = sqlite3.connect(":memory:", check_same_thread=False)


def check_completion(completion):
    """It can be stored, its figures can be added up, and what it says stands on one line."""
    assert isinstance(completion, Completion)
    assert _journal.execute("SELECT ?, ?", (completion.text, completion.detail)).fetchone()
    for figure in (completion.input_tokens, completion.output_tokens):
        assert type(figure) is int and 0 <= figure < 2 * 10**9
    assert completion.outcome in ("ok", "blocked", "empty", "truncated", "unreadable")
    assert completion.outcome in ("ok", "truncated", "blocked", "unreadable") or not completion.text.strip()
    assert "\n" not in completion.detail and len(completion.detail) < 2000
    completion.detail.encode()


def check_fault(error):
    """It is a fault that the retry layer knows, and says so on one line without the key."""
    assert isinstance(error, TransientError | GarbledError | AloeError), repr(error)
    assert KEY not in one_line(error)
    str(error).encode()
    if isinstance(error, TransientError):
        assert error.retry_after is None or 0 <= error.retry_after <= 1e9


def test_bodies_of_replies_are_read_or_named():
    access = Access(RoleSettings(provider="openai", model="m", endpoint="http://x", key_variable="MY_KEY"), "judge")
    readers = (
        openai._read,
        lambda content: read_response(body_of(content)),
        lambda content: read_response(_named(body_of(content))),
    )

    def check(content):
        for read in readers:
            try:
                check_completion(access.clean(read(content)))
            except ErrorResponse as complaint:
                check_fault(refused(access, complaint))
            except TransientError as error:
                check_fault(TransientError(error.fault, error.retry_after, access.scrub(error.detail)))

    fuzz(BODIES, check)


def test_bodies_of_errors_are_read_and_never_asked_for_ever():
    role = RoleSettings(provider="openai", model="m", endpoint="http://x", key_variable="MY_KEY")
    access = Access(role, "judge")

    def check(given):
        content, status, headers = given
        asked = 0

        def once(steps, seconds):
            nonlocal asked
            asked += 1
            raise ErrorResponse.read(status, headers, content)

        dialect._known.clear()
        try:
            with notices.heard_by(lambda line: one_line(ValueError(line))):
                check_completion(dialect.Dialect(role, access, openai.OpenAI.fields).ask(once, 5.0))
        except (TransientError, GarbledError, AloeError) as error:
            check_fault(error)
        assert asked <= 8
        seconds = retry_after(headers)
        assert seconds is None or 0 <= seconds <= 1e9

    fuzz(st.tuples(BODIES, st.sampled_from([*range(400, 432), 451, *range(500, 531), 599, 600, 999]), HEADERS), check)


def objects(form, text):
    """Every answer of a form that stands anywhere in a text."""
    decoder = json.JSONDecoder(strict=False)
    for at, letter in enumerate(text):
        if letter == "{":
            with contextlib.suppress(ValueError):
                yield form.model_validate(decoder.raw_decode(text, at)[0])


def test_texts_are_read_or_refused():
    def check(given):
        form, text = given
        try:
            answer = parse_answer(form, text)
        except ValueError as error:
            one_line(error)
        else:
            # Nothing is in it that the text does not say, and it can be stored.
            assert isinstance(answer, form)
            assert _journal.execute("SELECT ?", (answer.model_dump_json(),)).fetchone()
            assert len(text) > 2000 or answer in objects(form, text)

    fuzz(st.tuples(st.sampled_from(FORMS), TEXTS), check)


def test_whole_replies_over_the_wire():
    given = st.tuples(
        st.sampled_from(PROVIDERS),
        st.sampled_from([200, 200, 200, 201, 204, 302, 400, 422, 429, 500, 524, 999]),
        BODIES,
        st.dictionaries(
            st.sampled_from(["Retry-After", "Location", "Content-Encoding", "Content-Type", "Content-Length"]),
            st.sampled_from(
                ["0", "5", "gzip", "br", "identity", "http://127.0.0.1:9/", "text/html; charset=x", "-1", "%"]
            ),
            max_size=2,
        ),
    )
    with rogue() as server, notices.heard_by(lambda line: one_line(ValueError(line))):
        asked = {name: Asked(name, server.url, timeout=1.0, attempts=1) for name in PROVIDERS}

        def check(given):
            provider, status, body, headers = given
            dialect._known.clear()
            server.seen.clear()
            server.answer = lambda seen: reply(status, body, **{name: value for name, value in headers.items()})
            late = False
            try:
                check_completion(asked[provider].complete())
            except AloeError as error:
                assert KEY not in one_line(error)
                assert isinstance(error, UnavailableError) or status != 524
                late = "last fault: timeout" in str(
                    error
                )  # on a busy machine before the server has read the first request
            assert len(server.seen) <= 24 and (server.seen or late)

        fuzz(given, check)
