"""A window of steps recorded by JAX's profiler, for TensorBoard or Perfetto."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax

from aloe_jax.errors import AloeError
from aloe_jax.training.callback import Callback, Reached
from aloe_jax.training.settings import ProfileSettings
from aloe_jax.training.totals import Totals

DIRECTORY = "profile"


def check_window(settings: ProfileSettings, steps: int) -> None:
    """Raise AloeError when the profile would begin after the last of `steps` steps."""
    if settings.start is not None and settings.start > steps:
        raise AloeError(
            f"profile.start: step {settings.start} comes after the last one, {steps}; give a smaller number"
        )


class Profiling(Callback):
    """Records the steps start … start + steps - 1 in DIRECTORY/profile, as a context manager around the loop.

    A run that ends inside the window has recorded its part when the block is left; one that resumes inside it
    records the rest. `note` is called with where the record is.
    """

    def __init__(self, settings: ProfileSettings, directory: Path, note: Callable[[str], None]):
        start = settings.start or 0
        self._window = range(start, start + settings.steps) if settings.start is not None else range(0)
        self._directory, self._note = directory / DIRECTORY, note
        self._recording = False
        self._last: Totals | None = None
        self._mark: jax.profiler.StepTraceAnnotation | None = None

    def before(self, step: int) -> None:
        """Step `step` (from 1) is about to be dispatched."""
        if step in self._window:
            if not self._recording:
                jax.profiler.start_trace(str(self._directory))
                self._recording = True
            self._mark = jax.profiler.StepTraceAnnotation("train", step_num=step)
            self._mark.__enter__()

    def after(self, reached: Reached) -> None:
        """A step was dispatched; its totals, which the next one does not donate, show when it is done."""
        if self._recording:
            self._unmark()
            self._last = reached.totals
            if reached.step + 1 not in self._window:
                self._stop()

    def __enter__(self) -> Profiling:
        return self

    def __exit__(self, *_: object) -> None:
        if self._recording:
            self._unmark()
            self._stop()

    def _unmark(self) -> None:
        if self._mark is not None:
            self._mark.__exit__(None, None, None)
            self._mark = None

    def _stop(self) -> None:
        """Close the record once the devices have done what was dispatched, which is what it is about."""
        try:
            jax.block_until_ready(self._last)
        finally:
            self._recording, self._last = False, None
            jax.profiler.stop_trace()
        self._note(
            f"profile in {self._directory}: TensorBoard shows it with the plugin xprof, "
            "ui.perfetto.dev opens its trace.json.gz"
        )
