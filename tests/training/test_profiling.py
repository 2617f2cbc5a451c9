"""A window of steps in the profiler: which steps it holds, and that it is always closed."""

import jax
import jax.numpy as jnp
import pytest

from aloe_jax.errors import AloeError
from aloe_jax.training import profiling
from aloe_jax.training.callback import Reached
from aloe_jax.training.profiling import Profiling, check_window
from aloe_jax.training.settings import ProfileSettings


def steps(record, done, last):
    """Steps done + 1 … last of a run."""
    value = jnp.zeros(3)
    for step in range(done + 1, last + 1):
        record.before(step)
        value = jnp.sin(value) + step
        record.after(Reached(step, {}, value, first=False, last=step == last))


@pytest.fixture
def traced(monkeypatch):
    """What the profiler is told, in place of the real one."""
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda path: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))

    class Mark:
        def __init__(self, name, step_num):
            self.step = step_num

        def __enter__(self):
            calls.append(self.step)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(jax.profiler, "StepTraceAnnotation", Mark)
    monkeypatch.setattr(profiling.jax, "block_until_ready", lambda x: calls.append("wait"))
    return calls


@pytest.mark.parametrize(
    ("done", "last", "expected"),
    [
        (0, 8, ["start", 3, 4, 5, "wait", "stop"]),
        (0, 4, ["start", 3, 4, "wait", "stop"]),  # ends inside
        (3, 8, ["start", 4, 5, "wait", "stop"]),  # resumes inside
        (5, 8, []),  # resumes behind
        (0, 2, []),  # stopped before
    ],
)
def test_the_window(tmp_path, traced, done, last, expected):
    with Profiling(ProfileSettings(start=3, steps=3), tmp_path, traced.append) as record:
        steps(record, done, last)
    assert [call for call in traced if not str(call).startswith("profile in")] == expected


def test_an_error_inside_the_window_closes_the_record(tmp_path, traced):
    with pytest.raises(ValueError), Profiling(ProfileSettings(start=1, steps=9), tmp_path, traced.append) as record:
        record.before(1)
        raise ValueError
    assert traced[:3] == ["start", 1, "wait"] and "stop" in traced


def test_without_a_window_nothing_is_recorded(tmp_path, traced):
    with Profiling(ProfileSettings(), tmp_path, traced.append) as record:
        steps(record, 0, 5)
    assert traced == []


def test_a_real_record(tmp_path):
    told = []
    with Profiling(ProfileSettings(start=2, steps=1), tmp_path, told.append) as record:
        steps(record, 0, 3)
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 0 and b"train" in trace.read_bytes()
    assert len(told) == 1 and str(tmp_path / "profile") in told[0]


def test_a_window_behind_the_last_step_is_refused():
    check_window(ProfileSettings(), 5)
    check_window(ProfileSettings(start=5, steps=3), 5)
    with pytest.raises(AloeError, match=r"profile.start: step 6 comes after the last one, 5"):
        check_window(ProfileSettings(start=6), 5)
