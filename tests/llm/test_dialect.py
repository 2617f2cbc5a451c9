"""What servers refuse is renamed or left out, once, and reported; any other refusal ends the run with its words."""

import json

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.llm import dialect, notices
from aloe_jax.llm.batch import GenaiBatch
from aloe_jax.llm.error_response import ErrorResponse
from aloe_jax.llm.protocol import Request, UnavailableError
from tests.llm.remotes import KEY, PROVIDERS, Asked, role_at
from tests.standin.rogue import reply, rogue, said

GOOD = '{"preferred": "A"}'


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setattr(dialect, "_known", {})


@pytest.fixture
def heard():
    lines = []
    with notices.heard_by(lines.append):
        yield lines


@pytest.fixture(scope="module")
def server():
    with rogue() as server:
        yield server


def fields(provider, body):
    """The names of what a body sets, one level deep for Google's."""
    if provider == "openai":
        return {*body, *(message["role"] for message in body["messages"])}
    return {*body, *body["generationConfig"]}


def fastapi(field):
    detail = [{"type": "extra_forbidden", "loc": ["body", field], "msg": "Extra inputs are not permitted", "input": 1}]
    return {"object": "error", "message": {"detail": detail}, "type": "invalid_request_error"}


def google(message):
    return {"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}


def openai(message, param=None, code=None):
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


UNKNOWN = "Invalid JSON payload received. Unknown name \"{}\" at 'generation_config': Cannot find field."
OPENAI = [  # field refused, status, body, field that goes in its place
    ("seed", 422, fastapi("seed"), None),
    ("seed", 422, {"detail": [{"loc": ["body", "seed"], "msg": "extra fields not permitted"}]}, None),
    ("seed", 400, [google(UNKNOWN.format("seed"))], None),
    ("seed", 400, openai("Unrecognized request argument supplied: seed"), None),
    ("seed", 400, {"detail": "property 'seed' is unsupported"}, None),
    ("seed", 400, {"message": "create() got an unexpected keyword argument 'seed'"}, None),
    ("seed", 400, "Unknown field: seed", None),
    ("seed", 400, {"msg": "'seed': property is out of the schema"}, None),
    ("seed", 400, {"detail": "Got an illegal keyword argument seed"}, None),
    ("seed", 400, openai("Invalid value for seed: this model doesn't take it"), None),
    ("seed", 400, openai("Seed: must not be set for this model", "seed"), None),
    ("seed", 400, openai("Argument not valid: seed"), None),
    ("seed", 400, openai("Parameter seed must be removed"), None),
    ("seed", 400, openai("Unknown parameter: 'seed'.", "seed", "unknown_parameter"), None),
    (
        "max_tokens",
        400,
        openai(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
            "instead.",
            "max_tokens",
            "unsupported_parameter",
        ),
        "max_completion_tokens",
    ),
    ("max_tokens", 422, fastapi("max_tokens"), "max_completion_tokens"),
    (
        "temperature",
        400,
        openai(
            "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) value is "
            "supported.",
            "temperature",
            "unsupported_value",
        ),
        None,
    ),
    ("temperature", 400, openai("`temperature` may only be set to 1 when thinking is enabled."), None),
    ("temperature", 400, openai("`temperature` is deprecated for this model."), None),
    ("temperature", 400, openai("invalid temperature: only 1 is allowed for this model"), None),
    ("system", 400, openai("System role not supported"), None),
    ("system", 400, "messages[0].role: unknown variant `system`, expected `user` or `assistant`", None),
    ("system", 400, openai("Only user and assistant roles are supported!"), None),
    ("system", 400, openai("Conversation roles must alternate user/assistant/user/assistant/..."), None),
    ("system", 400, google("Developer instruction is not enabled for models/gemma-3-27b-it"), None),
]
GOOGLE = [
    ("temperature", google(UNKNOWN.format("temperature"))),
    ("maxOutputTokens", google(UNKNOWN.format("maxOutputTokens"))),
    ("systemInstruction", google("Developer instruction is not enabled for models/gemma-3-27b-it")),
    ("systemInstruction", google("System instruction is not supported by this model.")),
    ("responseMimeType", google("JSON mode is not enabled for models/gemma-3-27b-it")),
    ("Schema", google(UNKNOWN.format("responseJsonSchema"))),
    ("Schema", google("The specified schema produces a constraint that has too many states for serving.")),
]
GENAI = [
    ("seed", google(UNKNOWN.format("seed"))),
    ("thinkingConfig", google("Thinking is not enabled for models/gemini-2.0-flash")),
    ("thinkingConfig", google("Thinking budget is not supported for this model.")),
    ("thinkingConfig", google(UNKNOWN.format("thinkingConfig"))),
]
TABLE = (
    [("openai", *row) for row in OPENAI]
    + [(provider, field, 400, body, None) for provider in ("gemini", "genai") for field, body in GOOGLE]
    + [("genai", field, 400, body, None) for field, body in GENAI]
)


@pytest.mark.parametrize(("provider", "field", "status", "body", "instead"), TABLE)
def test_what_a_server_refuses_is_left_out_once_and_reported(server, heard, provider, field, status, body, instead):
    def refuse(seen):
        if any(name.endswith(field) for name in fields(provider, seen.json())):
            return reply(status, body)
        return reply(200, said(provider, GOOD))

    server.seen.clear()
    server.answer = refuse
    asked = Asked(provider, server.url, **({"thinking_budget": 64} if field == "thinkingConfig" else {}))
    assert asked.complete().text == GOOD and asked.clock.waits == []
    first, second = (seen.json() for seen in server.seen)
    before, after = fields(provider, first), fields(provider, second)
    assert any(name.endswith(field) for name in before) and not any(name.endswith(field) for name in after)
    assert after - before == ({instead} if instead else set())
    if "ystem" in field:
        assert r"You know a person.\n\nWhich reply?" in json.dumps(second)
    # Another role at the same model knows it already.
    other = Asked(provider, server.url, model=asked.role.model, thinking_budget=asked.role.thinking_budget)
    assert other.complete(seed=8).text == GOOD and len(server.seen) == 3
    (line,) = heard
    assert line.startswith(f"roles.judge: {asked.role.model} ({provider}): ") and "the server does not take it" in line
    assert len(line) < 700 and "\n" not in line
    silent = field in ("responseMimeType", "Schema")  # which change no answer
    assert len(asked.faults) == (0 if silent else 1) and all(one.startswith("left out: ") for one in asked.faults)


def test_a_server_that_refuses_everything_is_asked_a_bounded_number_of_times(server, heard):
    names = ("response_format", "max_tokens", "max_completion_tokens", "seed", "temperature", "system")

    def refuse(seen):
        there = [name for name in names if name in fields("openai", seen.json())]
        known = there[0] if there else "messages"
        if known == "system":
            return reply(400, openai("System role not supported"))
        return reply(400, openai(f"Unsupported parameter: {known}", known))

    server.seen.clear()
    server.answer = refuse
    asked = Asked("openai", server.url)
    with pytest.raises(AloeError, match=r"400 Bad Request: Unsupported parameter: messages$"):
        asked.complete()
    # A refusal of a field that is not there any more is the last word.
    assert len(server.seen) == 8 and len(heard) == 7
    assert set(server.seen[-1].json()) == {"model", "messages"}
    with pytest.raises(AloeError):
        asked.complete()
    assert len(server.seen) == 9


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_server_that_always_says_the_same_is_not_asked_for_ever(server, heard, provider):
    server.seen.clear()
    server.answer = lambda seen: reply(400, openai("'temperature' is not supported", "temperature"))
    with pytest.raises(AloeError, match=r"'temperature' is not supported; change roles.judge.temperature, which is 0$"):
        Asked(provider, server.url).complete()
    assert len(server.seen) == 2 and len(heard) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("status", "body", "ending"),
    [
        (
            400,
            openai("Invalid 'temperature': must be between 0 and 2."),
            "; change roles.judge.temperature, which is 0",
        ),
        (400, openai("Messages must not be empty."), "400 Bad Request: Messages must not be empty"),
        (403, openai("seed is not permitted for your account"), "variable MY_KEY"),
        (400, {}, "400 Bad Request"),
        (501, "no such thing", "501 Not Implemented: no such thing"),
        (505, "", "505 HTTP Version Not Supported"),
        (402, {"error": "Insufficient credits"}, "402 Payment Required: Insufficient credits"),
        (418, {"errors": [{"message": "short"}, {"message": "stout"}]}, "418 I'm a Teapot: short; stout"),
        (406, {"error": {"detail": {"reason": "odd"}}}, "406 Not Acceptable: odd"),
    ],
)
def test_other_refusals_end_with_the_servers_words(server, heard, provider, status, body, ending):
    server.seen.clear()
    server.answer = lambda seen: reply(status, body)
    with pytest.raises(AloeError) as caught:
        Asked(provider, server.url).complete()
    assert str(caught.value).endswith(ending) and not isinstance(caught.value, UnavailableError)
    assert len(server.seen) == 1 and heard == []


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, openai("This model's maximum context length is 4096 tokens. However, you requested 9000 tokens.")),
        (
            400,
            openai(
                "'max_tokens' or 'max_completion_tokens' is too large: 8192. This model's maximum context length is "
                "4096 tokens and your request has 57 input tokens. (parameter=max_tokens, value=8192)",
                "max_tokens",
            ),
        ),
        (400, openai("too long", code="context_length_exceeded")),
        (400, google("The input token count (9000) exceeds the maximum number of tokens allowed (8192).")),
        (400, {"error": {"message": "the request exceeds the available context size. try increasing it"}}),
        (500, {"error": "the request exceeds the available context size"}),
        (413, openai("Request too large for model m: Limit 6000, Requested 9000", code="rate_limit_exceeded")),
        (422, {"error": "`inputs` tokens + `max_new_tokens` must be <= 4096: maximum sequence length", "type": "x"}),
        (
            400,
            openai("max_tokens is too large: 8192. This model supports at most 4096 completion tokens", "max_tokens"),
        ),
    ],
)
def test_a_context_that_is_too_short_names_the_setting(server, heard, provider, status, body):
    server.seen.clear()
    server.answer = lambda seen: reply(status, body)
    with pytest.raises(AloeError, match=r"lower roles\.judge\.max_output_tokens, which is 8,192, or take a model"):
        Asked(provider, server.url).complete()
    assert len(server.seen) == 1 and heard == []


def test_a_budget_that_a_model_does_not_allow_names_the_setting(server):
    server.answer = lambda seen: reply(400, google("Budget 0 is invalid. This model only works in thinking mode."))
    with pytest.raises(AloeError, match=r"thinking mode; change roles.judge.thinking_budget$"):
        Asked("genai", server.url, thinking_budget=0).complete()


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 507, 520, 522, 524, 529, 530, 599])
def test_what_may_pass_is_tried_again_and_its_words_are_told(server, provider, status):
    answers = [reply(status, f"<html><title>{status}</title>try again later</html>"), reply(200, said(provider, GOOD))]
    server.answer = lambda seen: answers.pop(0)
    asked = Asked(provider, server.url)
    assert asked.complete().attempts == 2 and asked.faults[0].startswith(str(status))
    server.answer = lambda seen: reply(status, {"error": {"message": "Come back on Monday."}})
    with pytest.raises(UnavailableError, match=rf"{status}.*: Come back on Monday; run again later"):
        asked.complete()


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        ({"message": "Upstream is down.", "code": 502}, UnavailableError, "502 Bad Gateway: Upstream is down"),
        ({"message": "Slow down.", "code": "429"}, UnavailableError, "429 Too Many Requests: Slow down"),
        ({"message": "No such model.", "code": 404}, AloeError, "404 Not Found: No such model; check the model name"),
        ({"message": "You owe us.", "code": "insufficient_quota"}, AloeError, "You owe us"),
        ("out of memory", UnavailableError, "error in a reply: out of memory"),
        ({"message": "Loading."}, UnavailableError, "error in a reply: Loading"),
        (
            {"code": 400, "message": "raw", "metadata": {"raw": "the provider's words"}},
            AloeError,
            "the provider's words",
        ),
    ],
)
def test_an_error_within_a_good_reply_has_its_words(server, provider, error, kind, words):
    for body in ({"error": error}, [{"error": error}]):
        server.answer = lambda seen, body=body: reply(200, body)
        with pytest.raises(AloeError) as caught:
            Asked(provider, server.url).complete()
        assert words in str(caught.value) and type(caught.value) is kind


def test_an_error_in_a_choice_has_its_words(server):
    choice = {"error": {"message": "Provider returned error", "code": 503}, "finish_reason": "error", "message": None}
    server.answer = lambda seen: reply(200, {"choices": [choice]})
    with pytest.raises(UnavailableError, match="503 Service Unavailable: Provider returned error"):
        Asked("openai", server.url).complete()


# ---------------------------------------------------------------- answers that the server throws away

GARBLED = openai("Failed to generate JSON. See 'failed_generation'.", code="json_validate_failed")


def test_an_answer_that_the_server_throws_away_is_drawn_again_with_another_seed(server):
    answers = [reply(400, GARBLED), reply(503, "busy"), reply(400, GARBLED), reply(200, said("openai", GOOD))]
    server.seen.clear()
    server.answer = lambda seen: answers.pop(0)
    asked = Asked("openai", server.url)
    answer = asked.complete()
    assert (answer.outcome, answer.text, answer.attempts) == ("ok", GOOD, 4)
    seeds = [seen.json()["seed"] for seen in server.seen]
    assert seeds[0] == 7 and seeds[1] == seeds[2] and len({*seeds}) == 3 and all(0 <= seed < 2**31 for seed in seeds)
    assert asked.faults == ["400 json_validate_failed", "503 Service Unavailable", "400 json_validate_failed"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_answer_that_is_always_thrown_away_is_unreadable_and_ends_nothing(server, provider):
    server.seen.clear()
    server.answer = lambda seen: reply(400, GARBLED)
    answer = Asked(provider, server.url, price={"input": 1.0, "output": 1.0}).complete()
    assert (answer.outcome, answer.text, answer.attempts, answer.cost) == ("unreadable", "", 3, 0.0)
    assert "Failed to generate JSON" in answer.detail and len(server.seen) == 3


# ---------------------------------------------------------------- contents in other forms


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": GOOD},
                ]
            },
            GOOD,
        ),
        (
            {"content": [{"type": "reasoning", "text": '{"preferred": "B"}'}, {"type": "output_text", "text": GOOD}]},
            GOOD,
        ),
        ({"content": [GOOD[:5], GOOD[5:]]}, GOOD),
        ({"content": [{"text": GOOD}]}, GOOD),
        ({"content": [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": GOOD}]}, GOOD),
        ({"content": {"preferred": "A"}}, GOOD),
        ({"content": None, "reasoning_content": GOOD}, GOOD),
        ({"content": "", "reasoning": f"```json\n{GOOD}\n```\n"}, f"```json\n{GOOD}\n```\n"),
        ({"content": GOOD, "reasoning_content": '{"preferred": "B"}'}, GOOD),
    ],
)
def test_the_text_of_a_message_in_other_forms(server, message, text):
    body = said("openai", "")
    body["choices"][0]["message"] = message
    server.answer = lambda seen: reply(200, body)
    answer = Asked("openai", server.url).complete()
    assert (answer.outcome, answer.text) == ("ok", text)


@pytest.mark.parametrize(
    ("message", "finish", "outcome", "detail"),
    [
        (
            {"content": None, "reasoning_content": f"Perhaps {GOOD}, but then"},
            "stop",
            "empty",
            "reasoning and no answer",
        ),
        ({"content": None, "reasoning_content": GOOD}, "length", "truncated", "reasoning and no answer"),
        ({"content": []}, "stop", "empty", "stop"),
        ({"content": [{"type": "thinking", "thinking": GOOD}]}, "stop", "empty", "stop"),
        ({}, "stop", "empty", "stop"),
    ],
)
def test_a_message_without_an_answer_has_none(server, message, finish, outcome, detail):
    body = said("openai", "")
    body["choices"][0] = {"message": message, "finish_reason": finish}
    server.answer = lambda seen: reply(200, body)
    answer = Asked("openai", server.url).complete()
    assert (answer.outcome, answer.text) == (outcome, "") and detail in answer.detail


@pytest.mark.parametrize("provider", ["gemini", "genai"])
def test_thoughts_of_gemini_are_no_answer(server, provider):
    body = said(provider, GOOD)
    body["candidates"][0]["content"]["parts"] = [{"text": '{"preferred": "B"}', "thought": True}, {"text": GOOD}]
    body["usageMetadata"]["thoughtsTokenCount"] = 9
    server.answer = lambda seen: reply(200, body)
    answer = Asked(provider, server.url).complete()
    assert (answer.text, answer.output_tokens) == (GOOD, 15)


@pytest.mark.parametrize("provider", ["gemini", "genai"])
@pytest.mark.parametrize(
    ("body", "outcome", "detail"),
    [
        ({"usageMetadata": {"promptTokenCount": 10}}, "empty", "no candidates"),
        ({"candidates": []}, "empty", "no candidates"),
        ({"promptFeedback": {"blockReason": "SAFETY"}}, "blocked", "prompt blocked, SAFETY"),
        ({"candidates": [{"finishReason": "MALFORMED_RESPONSE"}]}, "empty", "MALFORMED_RESPONSE"),
        ({"candidates": [{"finishReason": 99, "content": None}]}, "empty", "99"),
        ({"candidates": [{"finishReason": "SAFETY", "finishMessage": "a\nb\ud83d"}]}, "blocked", "SAFETY: a b?"),
    ],
)
def test_replies_of_gemini_without_an_answer(server, provider, body, outcome, detail):
    server.answer = lambda seen: reply(200, body)
    answer = Asked(provider, server.url).complete()
    assert (answer.outcome, answer.detail) == (outcome, detail)


# ---------------------------------------------------------------- batches


def test_a_batch_leaves_out_what_the_server_refuses(server, heard):
    role = role_at("genai", server.url)
    counted = []
    service = GenaiBatch(role, "judge", on_fault=lambda *fault: counted.append(fault[2]), sleep=lambda seconds: None)

    def create(seen):
        if seen.line.startswith("GET"):
            return reply(200, {})
        sent = seen.json()["batch"]["inputConfig"]["requests"]["requests"][0]["request"]
        if "seed" in sent["generationConfig"]:
            return reply(400, google(UNKNOWN.format("seed")))
        return reply(200, {"name": "batches/b1", "metadata": {"state": "BATCH_STATE_PENDING"}})

    server.answer = create
    request = Request("judge", {}, "s", "p", {"type": "object"}, 0.0, 1)
    assert service.submit([request], "label") == "batches/b1"
    refusal = {"error": google("Developer instruction is not enabled for m")["error"], "metadata": {"key": "k"}}
    server.answer = lambda seen: reply(
        200,
        {
            "done": True,
            "metadata": {
                "state": "BATCH_STATE_SUCCEEDED",
                "output": {"inlinedResponses": {"inlinedResponses": [refusal, 5, {"metadata": 3}]}},
            },
        },
    )
    # Nothing is stored of it: the next job asks again, in another form.
    assert service.poll("batches/b1") == {}
    assert counted == ["left out: seed", "left out: system message", "batch: error 400", "unreadable reply"]
    assert [line.split(": ")[2] for line in heard] == ["seed", "system message"]


def test_pages_of_jobs_that_go_round_in_circles_end(server):
    server.seen.clear()
    server.answer = lambda seen: reply(200, {"operations": [7], "nextPageToken": "again"})
    assert GenaiBatch(role_at("genai", server.url), "judge").find("label") is None
    assert len(server.seen) == 2


def test_a_complaint_does_not_show_what_it_knows():
    complaint = ErrorResponse(400, "secret words")
    assert "secret" not in f"{complaint!r} {complaint}"
