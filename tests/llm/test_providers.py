"""One suite for all remote providers, over HTTP against the stand-in."""

import itertools
import json
import logging
import os
import subprocess
import sys
import threading
import traceback

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.llm import dialect
from aloe_jax.llm.limits import Limits
from aloe_jax.llm.protocol import Completion, Request, UnavailableError
from aloe_jax.llm.providers import backend, language_model
from aloe_jax.llm.retry import Persistent
from aloe_jax.llm.settings import RoleSettings
from aloe_jax.roles import PreferredReply, Rating, parse_answer
from tests.clock import Clock
from tests.standin import running

PROVIDERS = ("gemini", "genai", "openai")
KEY = "a-key-that-nobody-may-see-0123456789"
RETRY_AFTER = 7.0
_seeds = itertools.count()


@pytest.fixture(scope="module")
def server():
    with running(retry_after=RETRY_AFTER, hang=20) as server:
        yield server


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for variable in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setattr(dialect, "_known", {})


class Remote:
    """Language models of one provider on the stand-in, on a clock of our own."""

    def __init__(self, provider, server):
        self.provider, self.server = provider, server
        self.clock, self.faults = Clock(), []

    def role(self, model, **settings):
        endpoint = self.server.url + ("/v1" if self.provider == "openai" else "")
        return RoleSettings(
            **{"provider": self.provider, "model": model, "endpoint": endpoint, "key_variable": "MY_KEY"} | settings
        )

    def llm(self, model, **settings):
        role = self.role(model, **settings)
        return Persistent(
            backend(role, "verifier"),
            role,
            Limits(clock=self.clock, wait=self.clock.wait),
            on_fault=lambda model, role, fault: self.faults.append(fault),
            sleep=self.clock.sleep,
            draw=lambda low, high: 0.25,
        )

    def request(self, form=PreferredReply):
        """A new question: no two of a module have the same id."""
        fields = {PreferredReply: '{"reason": "one sentence", "preferred": "A" or "B"}', Rating: '{"rating": 1 to 5}'}[
            form
        ]
        prompt = f"Which reply?\n\nAnswer with a JSON object: {fields}"
        return Request("verifier", {}, "You know a person.", prompt, form.model_json_schema(), 0.5, next(_seeds))

    def seen(self, request, model):
        """What the server saw of a request, oldest first."""
        return self.server.of(request.key(model))


@pytest.fixture(params=PROVIDERS)
def remote(request, server):
    return Remote(request.param, server)


# ---------------------------------------------------------------- answers


def test_an_answer_with_its_tokens_and_cost(remote):
    request = remote.request()
    answer = remote.llm("plain", price={"input": 1_000_000, "output": 10_000_000}).complete(request)
    assert answer.outcome == "ok" and answer.detail == "" and answer.attempts == 1
    assert parse_answer(PreferredReply, answer.text).preferred in "AB"
    line = remote.seen(request, "plain")[0]["line"]
    assert (answer.input_tokens, answer.output_tokens) == (line["input_tokens"], line["output_tokens"])
    assert answer.input_tokens > 20 and answer.output_tokens > 10
    assert answer.cost == answer.input_tokens + 10 * answer.output_tokens
    assert remote.faults == [] and remote.clock.waits == []


def test_the_name_is_the_models_alone(remote):
    assert remote.llm("plain").name == "plain"


def test_thinking_counts_as_output(remote):
    request = remote.request()
    answer = remote.llm("thinker").complete(request)
    assert answer.output_tokens == -(-len(answer.text) // 4) + 32


def test_what_is_sent(remote):
    request = remote.request()
    remote.llm("plain", max_output_tokens=321).complete(request)
    (seen,) = remote.seen(request, "plain")
    headers = {name.lower(): value for name, value in seen["headers"].items()}
    assert headers["x-request-id"] == request.key("plain")
    body = seen["body"]
    if remote.provider == "openai":
        assert body["messages"] == [
            {"role": "system", "content": request.system},
            {"role": "user", "content": request.prompt},
        ]
        assert (body["temperature"], body["max_tokens"], body["seed"]) == (0.5, 321, request.seed)
        form = body["response_format"]["json_schema"]
        assert form["strict"] and form["schema"]["properties"]["preferred"] == {"type": "string", "enum": ["A", "B"]}
        return
    assert [part["text"] for part in body["systemInstruction"]["parts"]] == [request.system]
    assert [part["text"] for part in body["contents"][0]["parts"]] == [request.prompt]
    settings = body["generationConfig"]
    assert (settings["temperature"], settings["maxOutputTokens"]) == (0.5, 321)
    assert settings["responseMimeType"] == "application/json"
    if remote.provider == "genai":
        assert settings["seed"] == request.seed
        assert settings["responseJsonSchema"] == request.schema
        assert "thinkingConfig" not in settings
    else:
        assert settings["responseSchema"]["properties"]["preferred"]["enum"] == ["A", "B"]


def test_temperature_zero_is_sent(remote):
    request = Request(**{**remote.request().__dict__, "temperature": 0.0})
    remote.llm("plain").complete(request)
    body = remote.seen(request, "plain")[0]["body"]
    assert body.get("generationConfig", body)["temperature"] == 0


@pytest.mark.parametrize(
    ("model", "outcome", "detail"),
    [
        ("blocked", "blocked", {"openai": "content_filter", "": "prompt blocked, SAFETY"}),
        ("safety", "blocked", {"openai": "content_filter", "": "SAFETY"}),
        ("recitation", "blocked", {"openai": "content_filter: I cannot help with that.", "": "RECITATION"}),
        ("empty", "empty", {"openai": "stop", "": "STOP"}),
        ("other", "empty", {"openai": "stop", "": "OTHER"}),
        ("truncated", "truncated", {"openai": "length", "": "MAX_TOKENS"}),
    ],
)
def test_what_is_no_answer_is_a_finished_call(remote, model, outcome, detail):
    request = remote.request()
    answer = remote.llm(model).complete(request)
    assert (answer.outcome, answer.detail) == (outcome, detail.get(remote.provider, detail[""]))
    assert answer.input_tokens > 0
    assert bool(answer.text) == (model == "truncated")
    assert len(remote.seen(request, model)) == 1  # asking again would be answered alike


@pytest.mark.parametrize("model", ["badjson", "prose"])
def test_an_answer_that_cannot_be_read_is_the_roles_affair(remote, model):
    answer = remote.llm(model).complete(remote.request())
    assert answer.outcome == "ok"
    with pytest.raises(ValueError, match="JSON"):
        parse_answer(PreferredReply, answer.text)


def test_a_rating_out_of_range_is_the_roles_affair(remote):
    answer = remote.llm("rating9").complete(remote.request(Rating))
    with pytest.raises(ValueError, match="rating"):
        parse_answer(Rating, answer.text)


# ---------------------------------------------------------------- faults of the way


@pytest.mark.parametrize(
    ("model", "fault", "wait"),
    [
        ("429x1", "429 Too Many Requests", RETRY_AFTER),
        ("429infox1", "429 Too Many Requests", RETRY_AFTER),
        ("503x1", "503 Service Unavailable", 0),
        ("500x1", "500 Internal Server Error", 0),
        ("502x1", "502 Bad Gateway", 0),
        ("504x1", "504 Gateway Timeout", 0),
        ("408x1", "408 Request Timeout", 0),
        ("resetx1", "connection lost", 0),
        ("cutx1", "connection lost", 0),
        ("htmlx1", "unreadable reply", 0),
        ("hangx1", "timeout", 0),
    ],
)
def test_a_passing_fault_is_waited_out(remote, model, fault, wait):
    request = remote.request()
    # Short only where it must run out: on a busy machine an ordinary answer may take as long.
    answer = remote.llm(model, timeout=0.3 if model == "hangx1" else 20.0).complete(request)
    assert answer.outcome == "ok" and answer.attempts == 2
    assert remote.faults == [fault]
    assert remote.clock.waits == [wait + 0.25]
    first, second = remote.seen(request, model)
    # The same request id, and of the two only the second was answered in full.
    assert second["line"]["answer"] == "ok" and second["line"]["written"]
    assert first["line"]["answer"] != "ok"


def test_a_date_to_wait_for_is_honoured(remote):
    remote.llm("429datex1").complete(remote.request())
    assert RETRY_AFTER - 2 < remote.clock.waits[0] <= RETRY_AFTER + 0.25


def test_all_attempts_failed(remote):
    request = remote.request()
    with pytest.raises(UnavailableError) as caught:
        remote.llm("503", attempts=3).complete(request)
    assert str(caught.value) == (
        f"roles.verifier: 503 ({remote.provider}): no answer in 3 attempts, the last fault: "
        "503 Service Unavailable: The model is overloaded. Please try again later; run again later"
    )
    assert remote.faults == ["503 Service Unavailable"] * 3
    assert len(remote.seen(request, "503")) == 3  # the SDKs add no attempts of their own


def test_nobody_at_the_address(remote):
    with pytest.raises(UnavailableError, match=r"in 2 attempts, the last fault: connection lost"):
        remote.llm("plain", endpoint="http://127.0.0.1:9/v1", attempts=2).complete(remote.request())


def test_threads_share_a_client(remote):
    llm, answers = remote.llm("plain"), {}

    def work(request):
        answers[request.seed] = llm.complete(request)

    requests = [remote.request() for _ in range(24)]
    threads = [threading.Thread(target=work, args=(request,)) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(answers) == [request.seed for request in requests]
    again = {request.seed: llm.complete(request) for request in requests}
    assert again == answers


# ---------------------------------------------------------------- errors that a person can mend


def mendable(remote, model, **settings):
    """The message of the error that `model` gives, after one request and no wait."""
    request = remote.request()
    with pytest.raises(AloeError) as caught:
        remote.llm(model, **settings).complete(request)
    assert not isinstance(caught.value, UnavailableError)
    assert len(remote.seen(request, model)) == 1
    assert remote.clock.waits == [] and remote.faults == []
    check_secrecy(caught.value)
    message = str(caught.value)
    assert message.startswith(f"roles.verifier: {model} ({remote.provider}): ") and "\n" not in message
    return message


def check_secrecy(error):
    """No key in the message, in the exceptions behind it, or in the locals of our own frames."""
    key = os.environ["MY_KEY"]
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    texts = [str(error), repr(error), repr(error.__dict__)]
    texts += ["".join(traceback.format_exception(error))]
    texts += [
        f"{name}={value}"
        for frame in told.stack
        if "aloe_jax" in frame.filename
        for name, value in frame.locals.items()
    ]
    assert error.__cause__ is None and error.__context__ is None
    for text in texts:
        assert key not in text


def test_a_malformed_request_gives_the_servers_words(remote):
    message = mendable(remote, "400")
    assert message.endswith("400 Bad Request: Request contains an invalid argument")


def test_other_refusals_give_the_servers_words(remote):
    assert "418 I'm a Teapot: I am a teapot" in mendable(remote, "teapot")


def test_an_unknown_model_names_the_setting(remote):
    message = mendable(remote, "unknown")
    assert "404 Not Found" in message and "unknown" in message
    assert "check the model name, roles.verifier.model" in message


@pytest.mark.parametrize("prefix", ["wrong", "forbidden"])
def test_a_refused_key_names_its_variable_and_stays_hidden(remote, monkeypatch, prefix):
    monkeypatch.setenv("MY_KEY", f"{prefix}-{KEY}")
    message = mendable(remote, "plain")
    assert message.endswith("; check the key in the environment variable MY_KEY")
    if remote.provider == "openai" or prefix == "forbidden":
        assert "[key]" in message  # where the server repeated it


def test_keys_stay_out_of_reprs_and_logs(remote, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    # The wire protocol's own debug log shows headers; it is the user's to switch on.
    for name in ("httpcore2", "httpx2", "urllib3"):
        logging.getLogger(name).setLevel(logging.INFO)
    llm = remote.llm("503x1")
    llm.complete(remote.request())
    inner = llm._backend
    for thing in (llm, inner, inner._access, llm._limits, llm.role, llm._patience):
        assert KEY not in repr(thing)
    assert KEY not in caplog.text


# ---------------------------------------------------------------- at the door


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_missing_model_gives_an_example(provider):
    with pytest.raises(AloeError) as caught:
        language_model(RoleSettings(provider=provider), "judge")
    example = "gpt-5-mini" if provider == "openai" else "gemini-3.5-flash-lite"
    assert str(caught.value) == (
        f"roles.judge.model: provider {provider} needs a model, for example {example}; "
        "roles.provider=scripted simulates one offline"
    )


@pytest.mark.parametrize(
    ("provider", "settings", "names"),
    [
        ("gemini", {}, "GEMINI_API_KEY (or GOOGLE_API_KEY)"),
        ("genai", {}, "GEMINI_API_KEY (or GOOGLE_API_KEY)"),
        ("openai", {}, "OPENAI_API_KEY"),
        ("gemini", {"key_variable": "MINE"}, "MINE"),
        ("openai", {"key_variable": "MINE", "endpoint": "http://localhost/v1"}, "MINE"),
    ],
)
def test_a_missing_key_names_the_variables(provider, settings, names):
    with pytest.raises(AloeError, match=r"^roles\.judge: provider") as caught:
        language_model(RoleSettings(provider=provider, model="m", **settings), "judge")
    assert f"set the environment variable {names}, or use roles.provider=scripted" in str(caught.value)


@pytest.mark.parametrize("provider", ["gemini", "genai"])
def test_the_usual_variables_in_their_order(monkeypatch, server, provider, caplog):
    remote = Remote(provider, server)
    monkeypatch.setenv("GOOGLE_API_KEY", "wrong-one")
    with pytest.raises(AloeError, match="check the key in the environment variable GOOGLE_API_KEY"):
        remote.llm("plain", key_variable=None).complete(remote.request())
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    assert remote.llm("plain", key_variable=None).complete(remote.request()).outcome == "ok"
    assert "GOOGLE_API_KEY" not in caplog.text


def test_a_server_of_ones_own_needs_no_key_and_is_shown_none(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "wrong-for-others")  # the stand-in would refuse it
    remote = Remote("openai", server)
    assert remote.llm("plain", key_variable=None).complete(remote.request()).outcome == "ok"


def test_a_server_that_wants_a_key_after_all_names_the_setting(server, monkeypatch):
    monkeypatch.setattr("aloe_jax.llm.access._find_key", lambda role, name: ("", "wrong"))
    remote = Remote("openai", server)
    with pytest.raises(AloeError, match=r"give the environment variable with its key as roles\.verifier\.key_variable"):
        remote.llm("plain", key_variable=None).complete(remote.request())


@pytest.mark.parametrize("key", ["two words", "a\nb", "schlüssel"])
def test_what_cannot_be_a_key_is_told_without_being_shown(monkeypatch, key):
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(AloeError, match="the environment variable MY_KEY holds no key") as caught:
        language_model(RoleSettings(provider="gemini", model="m", key_variable="MY_KEY"), "judge")
    assert key not in str(caught.value)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_address_that_is_none_is_told(provider):
    with pytest.raises(AloeError, match=r"roles\.judge\.endpoint: 'localhost:8000' is no address"):
        language_model(RoleSettings(provider=provider, model="m", endpoint="localhost:8000"), "judge")


def test_roles_of_one_model_share_its_limits(remote):
    role = remote.role("plain", requests_per_minute=60)
    first, second = language_model(role, "user"), language_model(role, "judge")
    assert first._limits is second._limits
    assert language_model(remote.role("other", requests_per_minute=9), "judge")._limits is not first._limits
    expected = r"roles\.judge: requests_per_minute=30 .* roles\.user gives plain 60 and None"
    with pytest.raises(AloeError, match=expected):
        language_model(remote.role("plain", requests_per_minute=30), "judge")
    del first, second
    # Nobody speaks to it any more: a new run may set other limits.
    language_model(remote.role("plain", requests_per_minute=30), "judge")


def test_a_real_run_of_attempts_through_the_door(remote):
    told = []
    llm = language_model(remote.role("503x1"), "verifier", lambda *fault: told.append(fault))
    llm._patience = type(llm._patience)(8, lambda seconds: None)
    answer = llm.complete(remote.request())
    assert answer.attempts == 2
    assert told == [("503x1", "verifier", "503 Service Unavailable")]


# ---------------------------------------------------------------- one provider's own


def test_genai_sends_the_thinking_budget_and_counts_thoughts(server):
    remote = Remote("genai", server)
    request = remote.request()
    answer = remote.llm("plain", thinking_budget=100).complete(request)
    sent = remote.seen(request, "plain")[0]["body"]["generationConfig"]["thinkingConfig"]
    assert list(sent.values()) == [100]
    assert answer.output_tokens == -(-len(answer.text) // 4) + 16


def test_genai_reaches_vertex_ai_with_the_clouds_credentials(server, monkeypatch):
    from google.oauth2.credentials import Credentials

    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setattr("google.auth.default", lambda *_, **__: (Credentials(token="cloud-token"), "other"))
    remote = Remote("genai", server)
    request = remote.request()
    llm = remote.llm("plain", project="my-project", location="europe-west4", key_variable=None)
    assert llm.complete(request).outcome == "ok"
    (seen,) = remote.seen(request, "plain")
    assert "/projects/my-project/locations/europe-west4/publishers/google/models/plain:" in seen["path"]


def test_genai_without_cloud_credentials_says_how_to_get_them(server, monkeypatch):
    from google.auth.exceptions import DefaultCredentialsError

    def default(*_, **__):
        raise DefaultCredentialsError("none found")

    monkeypatch.setattr("google.auth.default", default)
    remote = Remote("genai", server)
    with pytest.raises(AloeError, match="gcloud auth application-default login"):
        remote.llm("plain", project="my-project", key_variable=None).complete(remote.request())


@pytest.mark.parametrize(("model", "forms"), [("noschema", [True, "json_object"]), ("noformat", [True, True, None])])
def test_openai_falls_back_to_the_form_that_the_server_knows_and_remembers_it(server, model, forms):
    remote = Remote("openai", server)
    llm = remote.llm(model)
    first, second = remote.request(), remote.request()
    assert llm.complete(first) == llm.complete(first)
    sent = [(seen["body"].get("response_format") or {}).get("type") for seen in remote.seen(first, model)]
    expected = ["json_schema", "json_object", None][: len(forms)]
    assert sent == [*expected, expected[-1]]
    remote.llm(model).complete(second)
    assert len(remote.seen(second, model)) == 1
    assert remote.faults == [] and remote.clock.waits == []


def test_openai_a_filtered_prompt_is_a_block(server):
    answer = Remote("openai", server).llm("filtered").complete(Remote("openai", server).request())
    assert answer.outcome == "blocked"
    assert answer.detail == "prompt blocked, content_filter: The prompt triggered the content management policy."


def test_openai_an_account_without_credit_is_not_waited_for(server):
    assert "check your plan and billing" in mendable(Remote("openai", server), "quota")


def test_gemini_warns_nobody_and_leaves_the_warning_filters_alone():
    program = (
        "import sys, warnings\n"
        "before = list(warnings.filters)\n"
        "from aloe_jax.llm.settings import RoleSettings\n"
        "from aloe_jax.llm.providers import language_model\n"
        "language_model(RoleSettings(provider='gemini', model='m'), 'judge')\n"
        "assert 'google.generativeai' in sys.modules\n"
        "ours = [f for f in warnings.filters if f not in before]\n"
        "print([f for f in ours if issubclass(FutureWarning, f[2])])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"GEMINI_API_KEY": KEY, "PATH": ""},
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_log_holds_a_line_for_every_request(tmp_path):
    log = tmp_path / "log"
    with running(log=log, hang=5) as server:
        remote = Remote("genai", server)
        request = remote.request()
        remote.llm("hangx1", timeout=0.2).complete(request)
        remote.llm("plain").complete(request)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = sorted((line["model"], line["answer"], line["written"]) for line in lines)
    assert told == [("hangx1", "hang", False), ("hangx1", "ok", True), ("plain", "ok", True)]
    assert all(line["id"] in (request.key("hangx1"), request.key("plain")) for line in lines)
    assert all(line["received"] <= line["answered"] for line in lines)
    assert KEY not in log.read_text()


def test_completions_are_equal_whatever_sdk_is_used(server):
    gemini, genai = Remote("gemini", server), Remote("genai", server)
    request = gemini.request()
    first, second = gemini.llm("plain").complete(request), genai.llm("plain").complete(request)
    assert first == second
    assert isinstance(first, Completion)
