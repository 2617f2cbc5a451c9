"""The watch of a run that talks: other users and another judge, every so many steps, and a note where a gap opens."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aloe_jax.rollouts.watch import hacking
from aloe_jax.training.metrics import line
from aloe_jax.training.periodic import Periodic
from aloe_jax.training.reporting import Reporting

FORMATS = {
    "judge": "training judge {:.2f}",
    "watch": "watch {:.2f}",
    "gap": "gap {:+.2f}",
    "reply_tokens": "{:.0f} tokens a reply",
    "coverage": "coverage {:.0%}",
}


class RolloutWatch(Periodic):
    """Logs records of kind watch; see `Watch.talk`."""

    kind, doing = "watch", "watching"

    def __init__(self, every: int, steps: int, talk: Callable[[], Mapping[str, float]], reporting: Reporting) -> None:
        """`talk` draws with the weights of the step that is reached."""
        super().__init__(every, steps, reporting)
        self._talk = talk

    def talk(self) -> Mapping[str, float]:
        """See `Watch.talk`."""
        return self._talk()

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """One line; and one more where the training's rating rises and the watch's does not."""
        display, log = self._reporting.display, self._reporting.log
        display.note(line(f"watch at step {step}", values, FORMATS))
        if (note := hacking(log.records("watch"), log.records("train"))) is not None:
            display.note(note)
