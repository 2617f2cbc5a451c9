"""Seconds by phase: every moment of a step counts once, and rates of training leave out the drawing."""

import jax
import jax.numpy as jnp
import pytest

from aloe_jax.rollouts.drawing import Span
from aloe_jax.training.callback import Reached
from aloe_jax.training.display import Display
from aloe_jax.training.metrics import MetricsLog
from aloe_jax.training.readings import Readings
from aloe_jax.training.step_clock import StepClock, StepTime
from aloe_jax.training.totals import Mean
from tests.training.test_metrics import records, scalars


def totals():
    return {"loss": Mean(jnp.float32(1.0), jnp.float32(1.0)), "grad_norm": Mean(jnp.float32(1.0), jnp.float32(1.0))}


class Hands:
    """A clock that is set."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def hands():
    return Hands()


def step(clock, hands, number, spans, drawn, trained):
    """Draw from the first span's beginning until `drawn`, and train until `trained`."""
    hands.now = drawn
    clock.drawn(number, spans[0].began, spans, 12)
    hands.now = trained
    clock.dispatched(number, totals())
    clock._trained[number].result()  # the thread has looked at the clock


def test_phases_add_up_to_the_step_and_what_overlaps_training_is_not_counted_again(hands):
    clock = StepClock(hands)
    first = [Span("generating", 0.0, 2.0), Span("waiting", 2.0, 5.0), Span("reference", 5.0, 5.5)]
    step(clock, hands, 0, first, drawn=6.0, trained=10.0)
    # The calls of the next step begin while this one trains, as does its first reply, which waits for the weights.
    second = [Span("waiting", 7.0, 8.0), Span("generating", 8.0, 13.0)]
    step(clock, hands, 1, second, drawn=14.0, trained=15.0)
    assert clock.read(0) == StepTime(
        12, {"generating": 2.0, "waiting": 3.0, "reference": 0.5, "training": 4.0, "other": 0.5}
    )
    assert clock.read(1) == StepTime(12, {"generating": 3.0, "waiting": 0.0, "training": 1.0, "other": 1.0})
    assert clock.read(2) is None and clock.read(0) is None
    clock.close()


class Batches:
    """Steps of 100 tokens and 8 replies: a second of drawing, three of waiting, half of training."""

    def work(self, step):
        return 100, 0, 0.0

    def statistics(self, step):
        return {}

    def dispatched(self, step, totals):
        pass

    def time(self, step):
        return StepTime(8, {"generating": 1.0, "waiting": 3.0, "training": 0.5, "other": 0.5})


def test_speed_of_training_is_that_of_training_and_replies_are_counted_over_the_whole_step(tmp_path):
    with MetricsLog(tmp_path, 0) as log, Display(tmp_path, 5) as display:
        readings = Readings(2, Batches(), lambda step: 0.1, log, display, tmp_path, jax.devices())
        for number in range(1, 6):
            readings.after(Reached(number, {}, totals(), first=number == 1, last=number == 5))
            readings.restart_clock()  # as after a validation, whose time is not a step's
    speed = [record for record in records(tmp_path) if record["kind"] == "speed"]
    expected = {
        "tokens_per_second": 200.0, "replies_per_second": 1.6, "seconds/generating": 1.0, "seconds/waiting": 3.0,
        "seconds/training": 0.5, "seconds/other": 0.5,
    }  # fmt: skip
    assert speed == [{"step": number, "kind": "speed", **expected} for number in (2, 4, 5)]
    assert ("speed/seconds/waiting", 4, 3.0) in scalars(tmp_path)
