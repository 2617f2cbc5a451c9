"""Batch jobs, over HTTP against the stand-in."""

import json
import time

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.llm import batch
from aloe_jax.llm.batch import GenaiBatch
from aloe_jax.llm.protocol import Request, UnavailableError
from aloe_jax.llm.providers import language_model
from aloe_jax.llm.settings import RoleSettings
from aloe_jax.roles import PreferredReply, parse_answer
from tests.clock import Clock
from tests.standin import running

KEY = "a-key-that-nobody-may-see-0123456789"
SECONDS = 0.3


@pytest.fixture(scope="module")
def server():
    with running(batch_seconds=SECONDS, hang=20) as server:
        yield server


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


def settings(server, model="plain", **more):
    price = {"input": 1_000_000, "output": 10_000_000}
    return RoleSettings(**{"provider": "genai", "model": model, "endpoint": server.url, "price": price} | more)


def service(server, model="plain", **more):
    """A batch service, and the faults that it met."""
    faults = []
    made = GenaiBatch(
        settings(server, model, **more),
        "verifier",
        on_fault=lambda model, role, fault: faults.append((model, role, fault)),
        sleep=Clock().sleep,
    )
    return made, faults


def requests(label, count=3):
    prompt = 'Which reply?\n\nAnswer with a JSON object: {"reason": "one sentence", "preferred": "A" or "B"}'
    schema = PreferredReply.model_json_schema()
    return [Request("verifier", {}, f"You know {label}.", prompt, schema, 0.5, number) for number in range(count)]


def finished(made, job):
    """The answers, waited for."""
    for _ in range(200):
        answers = made.poll(job)
        if answers is not None:
            return answers
        time.sleep(0.02)
    raise AssertionError("the job does not end")


def creations(server, label):
    """The requests that would make a job of that label."""
    shown = server.show()["recent"]
    return [seen for seen in shown if seen["body"].get("batch", {}).get("displayName") == label]


def test_a_job_answers_as_single_calls_do_at_half_the_price(server):
    made, faults = service(server)
    asked = requests("answers")
    job = made.submit(asked, "answers")
    assert made.poll(job) is None  # pending
    time.sleep(SECONDS / 2)
    assert made.poll(job) is None  # running
    answers = finished(made, job)
    assert list(answers) == [request.key("plain") for request in asked]
    single = language_model(settings(server), "verifier")
    for request in asked:
        answer, one = answers[request.key("plain")], single.complete(request)
        assert parse_answer(PreferredReply, answer.text) == parse_answer(PreferredReply, one.text)
        assert (answer.input_tokens, answer.output_tokens) == (one.input_tokens, one.output_tokens)
        assert answer.cost == one.cost / 2 > 0
    assert faults == []
    assert made.name == "plain"
    assert made.poll(job) == answers  # as often as one likes


def test_without_a_price_the_cost_is_unknown(server):
    made, _ = service(server, price=None)
    job = made.submit(requests("free"), "free")
    assert {answer.cost for answer in finished(made, job).values()} == {None}


def test_what_is_sent(server):
    made, _ = service(server, max_output_tokens=77, thinking_budget=5)
    (asked,) = requests("sent", 1)
    made.submit([asked], "sent")
    (seen,) = creations(server, "sent")
    (inlined,) = seen["body"]["batch"]["inputConfig"]["requests"]["requests"]
    assert inlined["metadata"] == {"key": asked.key("plain")}
    body = inlined["request"]
    assert body["systemInstruction"]["parts"] == [{"text": asked.system}]
    assert body["contents"][0]["parts"] == [{"text": asked.prompt}]
    generation = body["generationConfig"]
    assert (generation["temperature"], generation["maxOutputTokens"], generation["seed"]) == (0.5, 77, asked.seed)
    assert generation["responseJsonSchema"] == asked.schema
    assert list(generation["thinkingConfig"].values()) == [5]


@pytest.mark.parametrize("text", ["plain words " * 500, 'é"\n' * 300])
def test_the_size_is_not_guessed_too_small(server, text):
    made, _ = service(server)
    request = Request("verifier", {}, "system", text, PreferredReply.model_json_schema(), 0.5, 1)
    made.submit([request], "size")
    (inlined,) = creations(server, "size")[-1]["body"]["batch"]["inputConfig"]["requests"]["requests"]
    sent = len(json.dumps(inlined))
    assert sent <= made.size(request) <= sent + 1000


def test_a_job_is_found_by_its_label(server, monkeypatch):
    monkeypatch.setattr(batch, "_PAGE", 2)  # so that there is more than one page
    made, _ = service(server)
    assert made.find("found") is None
    job = made.submit(requests("found"), "found")
    for number in range(4):
        made.submit(requests("other"), f"other {number}")
    assert made.find("found") == job
    assert service(server)[0].find("found") == job  # also by a process that did not make it
    finished(made, job)
    assert made.find("found") == job


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("jobfailed", "has failed: The batch could not be processed."),
        ("jobexpired", "has expired: The batch expired after 48 hours."),
    ],
)
def test_a_failed_job_gives_the_servers_words_and_is_not_found(server, model, said):
    made, _ = service(server, model)
    job = made.submit(requests(model), model)
    assert made.find(model) == job
    with pytest.raises(AloeError) as caught:
        finished(made, job)
    assert str(caught.value) == f"roles.verifier: {model} (genai): the batch job {job} {said}"
    assert made.find(model) is None


def test_a_cancelled_job_says_so(server):
    made, _ = service(server)
    job = made.submit(requests("cancelled"), "cancelled")
    made._client.batches.cancel(name=job)
    with pytest.raises(AloeError, match="has been cancelled: The batch was cancelled"):
        made.poll(job)
    assert made.find("cancelled") is None


def test_a_job_that_the_server_has_forgotten(server):
    with pytest.raises(AloeError, match="no longer knows batches/none"):
        service(server)[0].poll("batches/none")


def test_requests_that_failed_in_passing_are_left_out(server):
    made, faults = service(server, "joberrors")
    asked = requests("errors", 7)
    answers = finished(made, made.submit(asked, "errors"))
    keys = [request.key("joberrors") for request in asked]
    assert list(answers) == [key for number, key in enumerate(keys) if number % 3 != 2]
    assert faults == [("joberrors", "verifier", "batch: error 14")] * 2


def test_a_request_that_the_server_refuses_is_finished(server):
    made, faults = service(server, "jobrefusals")
    asked = requests("refusals", 3)
    answers = finished(made, made.submit(asked, "refusals"))
    refused = answers[asked[2].key("jobrefusals")]
    assert (refused.outcome, refused.text, refused.cost) == ("blocked", "", None)
    assert refused.detail == "request refused: Request contains an invalid argument."
    assert faults == []


@pytest.mark.parametrize(
    ("model", "outcome"), [("blocked", "blocked"), ("empty", "empty"), ("truncated", "truncated"), ("badjson", "ok")]
)
def test_outcomes_are_those_of_single_calls(server, model, outcome):
    made, _ = service(server, model)
    answers = finished(made, made.submit(requests(model), model))
    assert {answer.outcome for answer in answers.values()} == {outcome}
    assert len(answers) == 3


@pytest.mark.parametrize("model", ["503x1", "429x1", "resetx1"])
def test_passing_faults_are_retried(server, model):
    made, faults = service(server, model)
    assert len(finished(made, made.submit(requests(model), model))) == 3
    assert len(faults) == 1
    assert len(creations(server, model)) == 2


def test_a_job_whose_making_was_not_heard_of_is_not_made_twice(server):
    made, faults = service(server, "cutx1")
    job = made.submit(requests("cut"), "cut")
    assert faults == [("cutx1", "verifier", "connection lost")]
    assert len(creations(server, "cut")) == 1
    assert made.find("cut") == job


def test_all_attempts_failed(server):
    made, faults = service(server, "503", attempts=3)
    with pytest.raises(UnavailableError, match=r"roles\.verifier: 503 \(genai, batch\): no answer in 3 attempts"):
        made.submit(requests("down"), "down")
    assert len(faults) == 3


def test_a_server_that_fails_every_third_time_loses_nothing():
    with running(batch_seconds=0.2, faults=0.6, seed=1, hang=20, retry_after=0.01) as server:
        made, faults = service(server, timeout=0.3, attempts=20)
        waiting = {request.key("plain"): request for request in requests("storm", 30)}
        answered = {}
        for number in range(20):
            label = f"storm {number}"
            answers = finished(made, made.find(label) or made.submit(list(waiting.values()), label))
            assert not answered.keys() & answers.keys()
            answered |= answers
            waiting = {key: request for key, request in waiting.items() if key not in answered}
            if not waiting:
                break
    assert len(answered) == 30
    assert {answer.outcome for answer in answered.values()} > {"ok"}
    assert {fault for _, _, fault in faults} > {"batch: error 14"}


def test_a_refused_key_names_its_variable_and_stays_hidden(server, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", f"forbidden-{KEY}")
    made, _ = service(server)
    with pytest.raises(AloeError, match="check the key in the environment variable GEMINI_API_KEY") as caught:
        made.submit(requests("key"), "key")
    assert KEY not in str(caught.value) and caught.value.__context__ is None
    assert KEY not in repr(made)


@pytest.mark.parametrize(
    "role",
    [
        {"provider": "gemini", "model": "m"},
        {"provider": "genai"},
        {"provider": "genai", "model": "m", "project": "p"},
    ],
)
def test_a_role_that_cannot_be_played_in_batches_is_told_so(role):
    with pytest.raises(AloeError, match=r"roles\.judge: batches need provider genai"):
        GenaiBatch(RoleSettings(**role), "judge")
