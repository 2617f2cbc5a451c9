"""How fast a run is: tokens, pairs and model FLOPs a second."""

from __future__ import annotations

import time

import jax

from aloe_jax.parallel.chips import peak_flops


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
        seconds = max(now - self._start, 1e-9)
        rates = {"tokens_per_second": self._tokens / seconds} if self._tokens else {}
        if self._pairs:
            rates["pairs_per_second"] = self._pairs / seconds
        if self._tokens and self._peak:
            rates["mfu"] = self._flops / seconds / self._peak
        self._start, self._tokens, self._pairs, self._flops = now, 0, 0, 0.0
        return rates
