"""Messages about a role's model, and what must not be in them."""

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.llm.access import Access
from aloe_jax.llm.providers import language_model
from aloe_jax.llm.settings import RoleSettings
from aloe_jax.settings import load_settings
from datagen.settings import DatagenSettings

KEY = "zq7-own-key-in-no-known-form"


@pytest.fixture
def access(monkeypatch):
    monkeypatch.setenv("MY_KEY", f"  {KEY}\n")
    return Access(RoleSettings(provider="gemini", model="m", key_variable="MY_KEY"), "judge")


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
    role = RoleSettings(provider="genai", model="m", project="my-project")
    access = Access(role, "judge")
    assert access.key == ""
    assert "may use my-project" in str(access.refusal(403, "denied"))


# ---------------------------------------------------------------- secrets in settings

SECRET = "hunter2-s3cret"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("endpoint", f"https://user:{SECRET}@host/v1", "a user name or a password"),
        ("endpoint", f"http://{SECRET}@127.0.0.1:8000", "a user name or a password"),
        ("endpoint", f"user:{SECRET}@host", "a user name or a password"),
        ("endpoint", f"https://user:pa/{SECRET}@host/v1", "a user name or a password"),
        ("endpoint", f"https://host/v1?key={SECRET}", "the address has a query"),
        ("endpoint", f"https://host/v1#{SECRET}", "the address has a query"),
        ("endpoint", f"https://ho st/{SECRET}", "a space or a line break"),
        ("key_variable", f"sk-{SECRET}", "is no name of an environment variable"),
        ("key_variable", f"AIza{SECRET.replace('-', '_')}", "is no name of an environment variable"),
    ],
)
@pytest.mark.parametrize("where", ["roles", "roles.judge"])
def test_a_secret_in_the_settings_is_refused_and_not_repeated(tmp_path, where, key, value, says):
    file = tmp_path / "data.yaml"
    file.write_text("output: out\n")
    with pytest.raises(AloeError) as caught:
        load_settings(DatagenSettings, file, [f"{where}.{key}={value}"])
    told = str(caught.value)
    assert says in told and f".{key}: " in told and "\n" not in told
    assert SECRET not in told and SECRET.replace("-", "_") not in told
    file.write_text(
        f"output: out\n{'roles:' if where == 'roles' else 'roles: {judge: {'}\n  {key}: {value!r}\n"
        + "}}" * ("." in where)
    )
    with pytest.raises(AloeError) as caught:
        load_settings(DatagenSettings, file)
    assert says in str(caught.value) and SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:8000/v1", "https://host.example/v1/models", "http://[::1]:80/v1"]
)
def test_ordinary_addresses_are_taken(endpoint):
    assert RoleSettings(endpoint=endpoint, key_variable="_MY_KEY_2").endpoint == endpoint


@pytest.mark.parametrize("length", [5, 9, 10, 40])
def test_a_short_key_is_taken_out_whole_and_a_long_one_in_parts(monkeypatch, length):
    key = "Zq8Wv3Xk7Jm2Rt9Lp4Hs6Nd1Bf5Gc0Ty-Ue_Ia.Q"[:length]
    monkeypatch.setenv("MY_KEY", key)
    access = Access(RoleSettings(provider="gemini", model="m", key_variable="MY_KEY"), "judge")
    assert access.scrub(f"it is {key}, is it?") == "it is [key], is it?"
    if length >= 10:
        assert access.scrub(f"it is {key[:-2]} or ***{key[2:]}, no?") == "it is [key] or ***[key], no?"


def test_words_of_a_server_are_shown_whatever_they_are_made_of(access):
    assert access.scrub("\x1b[31mred\x07 \u202e bell\x00 \ud83d") == "[31mred bell ?"


@pytest.mark.parametrize("provider", ["gemini", "genai", "openai"])
@pytest.mark.parametrize(
    "endpoint",
    ["http://", "http://:80", "http://host:abc/v1", "http://[::1/v1", "http://127.0.0.1:99999/v1", "http://h:0/v1",
     "http:///v1", "http://a..b/v1", f"http://{'a' * 300}/v1", "http://%zz/v1", "ftp://host/v1"],
)  # fmt: skip
def test_what_is_no_address_is_refused_before_anything_is_sent(monkeypatch, provider, endpoint):
    monkeypatch.setenv("MY_KEY", KEY)
    role = RoleSettings(provider=provider, model="m", endpoint=endpoint, key_variable="MY_KEY")
    with pytest.raises(AloeError, match=r"^roles\.judge\.endpoint: '.*' is no address; ") as caught:
        language_model(role, "judge")
    assert len(str(caught.value).encode()) < 300 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("genai", "../x"),
        ("gemini", "m?key=1"),
        ("genai", "a b"),
        ("gemini", "m#x"),
        ("openai", " m"),
    ],
)
def test_what_is_no_models_name_is_refused_before_anything_is_sent(monkeypatch, provider, model):
    monkeypatch.setenv("MY_KEY", KEY)
    with pytest.raises(AloeError, match=r"^roles\.judge\.model: '.*' is no name that a model of "):
        language_model(RoleSettings(provider=provider, model=model, key_variable="MY_KEY"), "judge")


@pytest.mark.parametrize("setting", [{"endpoint": "http://\ud83d/v1"}, {"model": "m\n"}, {"model": "\ud83d"}])
def test_characters_that_no_name_has_are_refused_with_the_settings(setting):
    with pytest.raises(ValueError, match="has the character U\\+"):
        RoleSettings(**({"provider": "openai", "model": "m"} | setting))


@pytest.mark.parametrize(
    "model", ["models/gemini-3.5-flash-lite", "publishers/meta/models/llama@001", "tunedModels/a-1"]
)
def test_ordinary_names_of_models_are_taken(monkeypatch, model):
    monkeypatch.setenv("MY_KEY", KEY)
    assert language_model(RoleSettings(provider="genai", model=model, key_variable="MY_KEY"), "judge").name == model
