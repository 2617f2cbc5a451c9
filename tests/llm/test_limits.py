"""Requests and tokens per minute, on a clock of our own."""

import random
import threading
import time

import pytest

from aloe_jax.llm.limits import WINDOW, Limits
from tests.clock import Clock


def limited(requests=None, tokens=None):
    clock = Clock()
    return Limits(requests, tokens, clock=clock, wait=clock.wait), clock


def test_without_limits_nothing_waits():
    limits, clock = limited()
    for _ in range(1000):
        limits.acquire(10_000)
    assert clock.waits == []


def test_requests_up_to_the_limit_start_at_once_and_the_next_waits_out_the_minute():
    limits, clock = limited(requests=3)
    for start in (0, 10, 20):
        clock.now = 1000 + start
        limits.acquire(1)
    limits.acquire(1)
    assert clock.now == 1060
    limits.acquire(1)
    assert clock.now == 1070
    assert len(clock.waits) == 2  # one wait each: nobody asks again and again


@pytest.mark.parametrize("seed", range(5))
def test_no_span_of_a_minute_holds_more_than_allowed(seed):
    draw = random.Random(seed)
    limits, clock = limited(requests=20, tokens=5000)
    started = []
    for _ in range(300):
        clock.now += draw.expovariate(1.0)
        slot = limits.acquire(draw.randint(1, 600))
        started.append((clock.now, slot))
        if draw.random() < 0.7:
            limits.settle(slot, draw.randint(0, slot.tokens))
    for now, _ in started:
        within = [slot for start, slot in started if now - WINDOW + 1e-5 < start <= now]
        assert len(within) <= 20
        assert sum(slot.tokens for slot in within) <= 5000
    # And no slower than the limits ask for: some minute was full.
    assert max(sum(now - WINDOW < start <= now for start, _ in started) for now, _ in started) >= 18


def test_tokens_wait_until_enough_have_left_the_minute():
    limits, clock = limited(tokens=100)
    limits.acquire(60)
    clock.now += 5
    limits.acquire(30)
    limits.acquire(70)  # needs the 60 to go, not the 30
    assert clock.now == 1060


def test_the_real_usage_replaces_the_estimate():
    limits, clock = limited(tokens=100)
    small, large = limits.acquire(50), limits.acquire(50)
    limits.settle(small, 10)
    limits.acquire(40)
    assert clock.waits == []
    limits.settle(large, 90)  # more than guessed: the next one waits longer
    limits.acquire(1)
    assert clock.now == 1060


def test_usage_known_only_after_the_minute_changes_nothing():
    limits, clock = limited(tokens=100)
    slot = limits.acquire(100)
    clock.now += WINDOW
    limits.acquire(100)
    limits.settle(slot, 0)
    limits.acquire(100)
    assert clock.now == 1000 + 2 * WINDOW


def test_a_request_larger_than_a_minute_allows_goes_alone():
    limits, clock = limited(tokens=100)
    limits.acquire(10)
    limits.acquire(500)
    assert clock.now == 1060
    limits.acquire(1)
    assert clock.now == 1120


def test_a_pause_holds_everybody_back():
    limits, clock = limited()
    limits.pause(7)
    limits.pause(3)  # a shorter one does not end it
    limits.acquire(1)
    assert clock.now == 1007
    limits.acquire(1)
    assert clock.now == 1007


def test_threads_share_a_pause_and_lose_no_request():
    limits = Limits(requests_per_minute=1000)
    limits.pause(0.15)
    started = []

    def work():
        for _ in range(5):
            limits.settle(limits.acquire(3), 1)
            started.append(time.monotonic())

    begin = time.monotonic()
    threads = [threading.Thread(target=work) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(started) == 160
    assert min(started) - begin >= 0.14
    assert limits._tokens == 160


def test_room_that_comes_early_is_taken_at_once():
    limits = Limits(tokens_per_minute=100)
    slot = limits.acquire(100)
    waiter = threading.Thread(target=limits.acquire, args=(50,), daemon=True)
    waiter.start()
    time.sleep(0.05)
    assert waiter.is_alive()
    limits.settle(slot, 10)
    waiter.join(5)
    assert not waiter.is_alive()
