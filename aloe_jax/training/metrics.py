"""Where a run's numbers go: a line in the terminal, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import click
import jax

# Peak bfloat16 matrix throughput of one device, FLOP/s, from the vendors' data sheets (dense, without sparsity).
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(device: jax.Device) -> float | None:
    """Peak FLOP/s of a device where it is known: the longest name that its kind starts with."""
    names = [name for name in PEAK_FLOPS if device.device_kind.startswith(name)]
    return PEAK_FLOPS[max(names, key=len)] if names else None


class MetricsLog:
    """metrics.jsonl and TensorBoard events of one run; a resumed run drops what it is about to do again."""

    def __init__(self, directory: Path, resumed_at: int):
        from tensorboardX import SummaryWriter

        self.path = directory / "metrics.jsonl"
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step(line) <= resumed_at]
            partial = self.path.with_suffix(".partial")
            partial.write_text("".join(line + "\n" for line in kept))
            os.replace(partial, self.path)
        self._file = self.path.open("a", buffering=1)
        self._events = SummaryWriter(str(directory / "tensorboard"), purge_step=resumed_at + 1)

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Add one record; `kind` is train or validation."""
        self._file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        self._events.close()


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # a line cut short by a kill


class Throughput:
    """Tokens, pairs and model FLOPs per second since the last reading."""

    def __init__(self, devices: list[jax.Device]):
        peak = peak_flops(devices[0])
        self._peak = peak * len(devices) if peak else None
        self._start, self._tokens, self._pairs, self._flops = time.perf_counter(), 0, 0, 0

    def add(self, tokens: int, pairs: int, flops: int) -> None:
        """Count one step."""
        self._tokens, self._pairs, self._flops = self._tokens + tokens, self._pairs + pairs, self._flops + flops

    def read(self) -> dict[str, float]:
        """Rates since the last reading; `mfu` only where the device's peak is known."""
        now = time.perf_counter()
        seconds = max(now - self._start, 1e-9)
        rates = {"tokens_per_second": self._tokens / seconds}
        if self._pairs:
            rates["pairs_per_second"] = self._pairs / seconds
        if self._peak:
            rates["mfu"] = self._flops / seconds / self._peak
        self._start, self._tokens, self._pairs, self._flops = now, 0, 0, 0
        return rates


FORMATS = {
    "loss": "loss {:.4f}",
    "perplexity": "ppl {:.2f}",
    "margin": "margin {:+.3f}",
    "accuracy": "accuracy {:.3f}",
    "learning_rate": "lr {:.2e}",
    "grad_norm": "|g| {:.2f}",
    "tokens_per_second": "{:,.0f} tok/s",
    "pairs_per_second": "{:,.1f} pairs/s",
    "mfu": "mfu {:.1%}",
}


def tell(head: str, values: dict[str, Any]) -> None:
    """One line in the terminal with the values that a person watches."""
    parts = [form.format(values[name]) for name, form in FORMATS.items() if name in values]
    click.echo(f"{head} | " + " | ".join(parts))
