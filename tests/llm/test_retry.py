"""The retry layer by itself, on a clock of our own."""

import threading
from collections import Counter

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.llm import notices
from aloe_jax.llm.failures import GarbledError, TransientError, retry_after
from aloe_jax.llm.limits import Limits
from aloe_jax.llm.protocol import Completion, Request, UnavailableError
from aloe_jax.llm.retry import LONGEST_WAIT, Persistent
from aloe_jax.llm.settings import RoleSettings
from tests.clock import Clock

REQUEST = Request("judge", {}, "s" * 40, "p" * 360, {}, 0.0, 0)


class Backend:
    """Raises or returns what it is given, in order; the last again and again."""

    name = "echo-1"

    def __init__(self, *script):
        self.script, self.asked = list(script), []

    def ask(self, request, timeout):
        self.asked.append(timeout)
        now = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(now, Exception):
            raise now
        return now


def persistent(*script, draw=lambda low, high: high, **settings):
    """A language model over a script, its clock, and what the hook was told."""
    clock, faults = Clock(), []
    role = RoleSettings(provider="gemini", model="echo-1", **settings)
    limits = Limits(role.requests_per_minute, role.tokens_per_minute, clock=clock, wait=clock.wait)
    llm = Persistent(
        Backend(*script), role, limits, on_fault=lambda *told: faults.append(told), sleep=clock.sleep, draw=draw
    )
    return llm, clock, faults


def test_an_answer_is_passed_on_with_its_cost_and_attempts():
    llm, _, faults = persistent(
        TransientError("503"), Completion("hi", 1000, 500, "truncated", "MAX_TOKENS"), price={"input": 2, "output": 8}
    )
    assert llm.complete(REQUEST) == Completion("hi", 1000, 500, "truncated", "MAX_TOKENS", cost=0.006, attempts=2)
    assert faults == [("echo-1", "judge", "503")]
    assert llm.name == "echo-1"
    assert llm._backend.asked == [120.0, 120.0]


def test_without_a_price_the_cost_is_unknown():
    llm, _, _ = persistent(Completion("hi", 1000, 500))
    assert llm.complete(REQUEST).cost is None


def test_waits_double_up_to_the_cap_and_are_drawn_from_zero():
    bounds = []

    def draw(low, high):
        bounds.append((low, high))
        return high / 2

    llm, clock, faults = persistent(TransientError("503"), draw=draw, attempts=10)
    with pytest.raises(UnavailableError):
        llm.complete(REQUEST)
    assert bounds == [(0.0, bound) for bound in (1, 2, 4, 8, 16, 32, 60, 60, 60)]
    assert clock.waits == [bound / 2 for _, bound in bounds]
    assert max(clock.waits) <= LONGEST_WAIT
    assert len(faults) == 10


def test_what_the_server_asks_to_wait_is_waited_and_jittered():
    llm, clock, _ = persistent(TransientError("429", 20.0), TransientError("429", 0.5), Completion("hi"))
    llm.complete(REQUEST)
    assert clock.waits == [20.0 + 1, 0.5 + 2]


def test_a_429_holds_back_the_other_roles_of_the_model():
    llm, clock, _ = persistent(TransientError("429", 20.0), Completion("hi"))
    other, started = Persistent(Backend(Completion("ho")), llm.role, llm._limits), []

    def sleep(seconds):
        other.complete(REQUEST)
        started.append(clock.now)

    Persistent(llm._backend, llm.role, llm._limits, sleep=sleep).complete(REQUEST)
    assert started == [1020.0]


def test_giving_up_names_the_model_the_fault_and_the_attempts():
    llm, clock, faults = persistent(TransientError("timeout"), TransientError("429", 1, "Quota exceeded."), attempts=3)
    with pytest.raises(UnavailableError) as caught:
        llm.complete(REQUEST)
    assert str(caught.value) == (
        "roles.judge: echo-1 (gemini): no answer in 3 attempts, the last fault: 429: Quota exceeded; run again later"
    )
    assert [fault for _, _, fault in faults] == ["timeout", "429", "429"]
    assert len(clock.waits) == 2  # not after the last attempt
    assert caught.value.__context__ is None


def test_one_attempt_is_one_attempt():
    llm, clock, _ = persistent(TransientError("timeout"), attempts=1)
    with pytest.raises(UnavailableError, match="in 1 attempt,"):
        llm.complete(REQUEST)
    assert clock.waits == []


def test_a_server_that_asks_for_more_than_the_longest_wait_is_out_of_reach():
    llm, clock, _ = persistent(TransientError("429", 301.0), Completion("hi"))
    with pytest.raises(UnavailableError, match=r"asks to wait 301 seconds \(429\), and roles.longest_wait is 300;"):
        llm.complete(REQUEST)
    llm.complete(REQUEST)
    assert clock.waits == []  # nobody else is held back for hours either


@pytest.mark.parametrize("error", [AloeError("wrong key"), TypeError("a defect")])
def test_what_no_attempt_would_mend_is_raised_at_once(error):
    llm, clock, faults = persistent(error)
    with pytest.raises(type(error), match=str(error)):
        llm.complete(REQUEST)
    assert len(llm._backend.asked) == 1
    assert faults == clock.waits == []


def test_tokens_are_estimated_before_the_call_and_corrected_after():
    # 100 tokens of prompt and 256 for a reply that is not there yet.
    llm, clock, _ = persistent(Completion("hi", 100, 20), tokens_per_minute=500)
    for _ in range(2):
        llm.complete(REQUEST)
    assert clock.waits == []
    llm.complete(REQUEST)
    assert clock.waits == [60.0]


def test_a_server_that_counts_no_tokens_is_held_to_the_estimate():
    llm, clock, _ = persistent(Completion("hi"), tokens_per_minute=500)
    llm.complete(REQUEST)
    llm.complete(REQUEST)
    assert clock.waits == [60.0]


def test_failed_attempts_count_as_requests_but_not_as_tokens():
    fault = TransientError("503")
    llm, clock, _ = persistent(
        fault, fault, Completion("hi", 1, 1), draw=lambda low, high: 0.0, requests_per_minute=2, tokens_per_minute=400
    )
    llm.complete(REQUEST)
    assert clock.waits == [0.0, 0.0, 60.0]


def test_many_threads_share_one_language_model():
    llm, _, _ = persistent(Completion("hi", 1, 1))
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.extend(llm.complete(REQUEST) for _ in range(20))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 320


INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "12.5s"}


@pytest.mark.parametrize(
    ("headers", "details", "seconds"),
    [
        ({"retry-after": "9" * 400}, (), 1e9),
        ({"retry-after": "\u0661"}, (), None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 +9999"}, (), None),
        ({}, [INFO | {"retryDelay": "9" * 400 + "s"}], 1e9),
        ({}, (), None),
        ({"retry-after": "30"}, (), 30.0),
        ({"Retry-After": " 0.5 "}, (), 0.5),
        ({"retry-after": "-3"}, (), None),
        ({"retry-after": "soon"}, (), None),
        ({"retry-after": "nan"}, (), None),
        ({"retry-after": "Thu, 01 Jan 1970 00:17:10 GMT"}, (), 30.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, (), 0.0),
        ({}, [{"@type": "type.googleapis.com/google.rpc.QuotaFailure"}, INFO], 12.5),
        ({}, [INFO | {"retryDelay": "36s"}], 36.0),
        ({"retry-after": "5"}, [INFO], 12.5),
        ({}, [INFO | {"retryDelay": None}], None),
        ({}, [INFO | {"retryDelay": "soon"}, "noise", None], None),
        ({}, None, None),
    ],
)
def test_what_a_server_asks_to_wait_is_read(headers, details, seconds):
    assert retry_after(headers, details, now=1000.0) == seconds


# ---------------------------------------------------------------- what a person hears


@pytest.fixture
def heard():
    lines = []
    with notices.heard_by(lines.append):
        yield lines


def test_a_long_wait_is_reported_and_counted_and_a_short_one_is_not(heard):
    before = notices.waited()
    llm, clock, _ = persistent(
        TransientError("429 Too Many Requests", 240.0, "Quota exceeded."), TransientError("503", 5.0), Completion("hi")
    )
    llm.complete(REQUEST)
    assert clock.waits == [241.0, 7.0]
    assert heard == [
        "roles.judge: echo-1 (gemini): waiting 240 s, as the server asks (429 Too Many Requests: Quota exceeded)"
    ]
    count, seconds = notices.waited()
    assert (count - before[0], seconds - before[1]) == (1, 240.0)


def test_threads_that_wait_together_report_once(heard):
    for _ in range(4):
        llm, clock, _ = persistent(TransientError("429", 20.0), Completion("hi"))
        llm.complete(Request("user", {}, "s", "p", {}, 0.0, 0))
        assert clock.waits == [21.0]
    assert len(heard) == 1


def test_without_a_listener_notices_go_to_stderr(capsys):
    notices.report("one line")
    assert capsys.readouterr() == ("", "one line\n")


def test_the_longest_wait_is_a_setting(heard):
    llm, clock, _ = persistent(TransientError("429", 1800.0), Completion("hi"), longest_wait=3600.0)
    llm.complete(REQUEST)
    assert clock.waits == [1801.0]
    llm, clock, _ = persistent(TransientError("429", 0.5), Completion("hi"), longest_wait=0.0)
    with pytest.raises(UnavailableError, match="asks to wait 0 seconds"):
        llm.complete(REQUEST)
    assert clock.waits == []


def test_retries_add_up_by_their_reasons():
    counts = Counter()
    llm, _, faults = persistent(
        TransientError("503 Service Unavailable"),
        TransientError("timeout"),
        GarbledError("400 json_validate_failed", "no JSON"),
        TransientError("timeout"),
        Completion("hi"),
    )
    assert llm.complete(REQUEST).attempts == 5
    counts.update(fault for _, _, fault in faults)
    assert counts == {"timeout": 2, "503 Service Unavailable": 1, "400 json_validate_failed": 1}


def test_an_answer_thrown_away_again_and_again_is_unreadable():
    llm, clock, faults = persistent(GarbledError("400 json_validate_failed", "no JSON"))
    assert llm.complete(REQUEST) == Completion("", 0, 0, "unreadable", "400 json_validate_failed: no JSON", attempts=3)
    assert clock.waits == [] and len(faults) == 3


@pytest.mark.parametrize(
    ("given", "cost"),
    [((0, 0), 101 + 2 * 1), ((50, 0), 50 + 2 * 1), ((0, 30), 101 + 2 * 30), ((50, 30), 50 + 2 * 30)],
)
def test_tokens_that_are_unknown_are_paid_for_by_a_guess(given, cost):
    llm, _, _ = persistent(Completion("hi", *given), price={"input": 1e6, "output": 2e6})
    assert llm.complete(REQUEST).cost == cost
    llm, _, _ = persistent(Completion("", outcome="blocked"), price={"input": 1e6, "output": 2e6})
    assert llm.complete(REQUEST).cost == 0  # nothing was written


def test_a_server_that_was_never_reached_is_named_once():
    class Nobody:
        name = "m"

        def ask(self, request, timeout):
            raise TransientError("connection lost", detail="Connection refused")

    role = RoleSettings(provider="openai", model="m", endpoint="http://127.0.0.1:9/v1", attempts=3)
    llm = Persistent(Nobody(), role, Limits(), sleep=lambda seconds: None)
    lines = []
    with notices.heard_by(lines.append):
        for seed in (1, 2):
            with pytest.raises(UnavailableError):
                llm.complete(Request("judge", {}, "", "p", {}, 0.0, seed))
    (line,) = lines
    assert "nothing answers at http://127.0.0.1:9/v1" in line and "is the server running?" in line
