"""What callbacks report to, as one value: the readings of steps, the metrics log and the display."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aloe_jax.training.display import Display
from aloe_jax.training.metrics import MetricsLog
from aloe_jax.training.readings import Readings


@dataclass(frozen=True)
class Reporting:
    """Of one run."""

    readings: Readings
    log: MetricsLog
    display: Display
    score: Callable[[int, float], None]  # see `Checkpoints.score`
