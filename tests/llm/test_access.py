"""Messages about a role's model, and what must not be in them."""

import pytest

from aloe_jax import config
from aloe_jax.llm.access import Access

KEY = "zq7-own-key-in-no-known-form"


@pytest.fixture
def access(monkeypatch):
    monkeypatch.setenv("MY_KEY", f"  {KEY}\n")
    return Access(config.Role(provider="gemini", model="m", key_variable="MY_KEY"), "judge")


def test_the_key_is_taken_without_white_space(access):
    assert access.key == KEY
    assert KEY not in repr(access) and KEY not in repr(access.role)


@pytest.mark.parametrize(
    "secret",
    [
        KEY,
        "AIzaSyD-abcdefghijklmnopqrstuvwxyz_0123",
        "sk-proj-abcdef0123456789",
        "sk-ab***********xyz9",
        "Bearer ya29.a0AfH6SMBx",
    ],
)
def test_keys_of_any_kind_are_taken_out(access, secret):
    told = access.scrub(f"refused: '{secret}' is not valid")
    assert secret.removeprefix("Bearer ") not in told
    assert told.startswith("refused: ") and told.endswith("is not valid") and "[key]" in told


def test_keys_in_addresses_and_phrases_are_taken_out(access):
    assert access.scrub("GET https://host/v1?alt=json&key=abc%2Fdef: 403") == (
        "GET https://host/v1?alt=json&key=[key] 403"
    )
    assert access.scrub("Incorrect API key provided: anything at all") == "Incorrect API key provided: [key] at all"


def test_ordinary_words_stay(access):
    text = "The task-force asked for a key=value pair, and a risk-free sk-8."
    assert access.scrub(text) == text


def test_a_message_is_one_line_of_sensible_length(access):
    message = access.message("first\n\n  second\t" + "long " * 500)
    assert message.startswith("roles.judge: m (gemini): first second long")
    assert len(message) < 700 and message.endswith(" …")


@pytest.mark.parametrize(
    ("status", "ending"),
    [
        (400, "400 Bad Request: no"),
        (401, "; check the key in the environment variable MY_KEY"),
        (403, "; check the key in the environment variable MY_KEY"),
        (404, "; check the model name, roles.judge.model"),
        (799, "799: no"),
    ],
)
def test_a_refusal_says_what_may_mend_it(access, status, ending):
    assert str(access.refusal(status, "no.")).endswith(ending)


def test_vertex_ai_needs_no_key(monkeypatch):
    role = config.Role(provider="genai", model="m", project="my-project")
    access = Access(role, "judge")
    assert access.key == ""
    assert "may use my-project" in str(access.refusal(403, "denied"))
