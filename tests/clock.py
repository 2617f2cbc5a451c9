"""Time that passes only when somebody waits."""

import threading


class Clock:
    """`waits` are the seconds of every wait, in order."""

    def __init__(self):
        self.now = 1000.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        """The time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.waits.append(seconds)
        self.now += seconds

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        """As `Condition.wait` when nobody notifies."""
        self.sleep(seconds)
