"""How fast a run is: tokens, pairs and model FLOPs a second."""

from __future__ import annotations

import time
from collections.abc import Sequence

import jax

from aloe_jax.parallel.chips import peak_flops
from aloe_jax.training.step_clock import StepTime

Counts = tuple[int, int, float]  # tokens, pairs and FLOPs of a step


class Throughput:
    """Tokens, pairs and useful FLOPs per second since the last reading, over all `devices`."""

    def __init__(self, devices: list[jax.Device]):
        peak = peak_flops(devices[0].device_kind)
        self._peak = peak * len(devices) if peak else None
        self._start, self._tokens, self._pairs, self._flops = time.perf_counter(), 0, 0, 0.0

    def add(self, tokens: int, pairs: int, flops: float) -> None:
        """Count one step."""
        self._tokens, self._pairs, self._flops = self._tokens + tokens, self._pairs + pairs, self._flops + flops

    def read(self) -> dict[str, float]:
        """Rates since the last reading, none where nothing was counted; `mfu` only where the device's peak is known.

        The devices must have finished what was counted: fetch the steps' metrics first.
        """
        now = time.perf_counter()
        rates = self._rates(now - self._start, self._tokens, self._pairs, self._flops)
        self._start, self._tokens, self._pairs, self._flops = now, 0, 0, 0.0
        return rates

    def timed(self, steps: Sequence[tuple[Counts, StepTime]]) -> dict[str, float]:
        """The same of steps whose batches were drawn, over the time of training alone; and of the whole steps

        "replies_per_second", and "seconds/<phase>" in the mean. At least one step.
        """
        times = [time for _, time in steps]
        tokens, pairs, flops = (sum(values) for values in zip(*(counts for counts, _ in steps), strict=True))
        spent = {
            phase: sum(time.seconds.get(phase, 0.0) for time in times)
            for phase in dict.fromkeys(phase for time in times for phase in time.seconds)
        }
        rates = self._rates(spent["training"], int(tokens), int(pairs), flops)
        rates["replies_per_second"] = sum(time.replies for time in times) / max(sum(spent.values()), 1e-9)
        return rates | {f"seconds/{phase}": seconds / len(times) for phase, seconds in spent.items()}

    def _rates(self, seconds: float, tokens: int, pairs: int, flops: float) -> dict[str, float]:
        seconds = max(seconds, 1e-9)
        rates = {"tokens_per_second": tokens / seconds} if tokens else {}
        if pairs:
            rates["pairs_per_second"] = pairs / seconds
        if tokens and self._peak:
            rates["mfu"] = flops / seconds / self._peak
        return rates
