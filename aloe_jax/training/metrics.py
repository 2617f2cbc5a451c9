"""Where a run's numbers go (metrics.jsonl, TensorBoard, Weights & Biases) and how fast it goes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aloe_jax.data.packing import Rows
from aloe_jax.models.settings import LoRASettings
from aloe_jax.models.spec import ModelSpec
from aloe_jax.storage.files import write_atomically
from aloe_jax.training.charts import Charts
from aloe_jax.training.tracking import WandbRun

RECORDS = "metrics.jsonl"

# Peak bfloat16 matrix throughput of one device, FLOP/s, from the vendors' data sheets (dense, without sparsity).
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}

# The values that a person watches, in the order of a line.
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


def line(head: str, values: Mapping[str, float]) -> str:
    """One line of the values in FORMATS, such as "step 2/6 | loss 0.6931 | …"; values by turn are left out."""
    return " | ".join([head, *(form.format(values[name]) for name, form in FORMATS.items() if name in values)])


def peak_flops(device: jax.Device) -> float | None:
    """Peak FLOP/s of a device where it is known: the longest name that its kind starts with."""
    names = [name for name in PEAK_FLOPS if device.device_kind.startswith(name)]
    return PEAK_FLOPS[max(names, key=len)] if names else None


class MetricsLog:
    """The records of one run; a resumed run drops those that it is about to write again.

    metrics.jsonl has one JSON object a line: step, kind (train or validation) and values that depend on settings and
    data only, so that a resumed run's file equals an undisturbed one's. `project` names a project at Weights &
    Biases, `resolved` the settings shown there. With `quiet` (all processes but the first) nothing is written.
    """

    def __init__(
        self,
        directory: Path,
        resumed_at: int,
        *,
        project: str | None = None,
        resolved: Mapping[str, Any] | None = None,
        quiet: bool = False,
    ):
        self._quiet = quiet
        if quiet:
            return

        self.path = directory / RECORDS
        records = [(_step(line), line) for line in self.path.read_text().splitlines()] if self.path.exists() else []
        self._wandb: WandbRun | None = None
        if project is not None:
            # Before the file is cut: what a killed run wrote last was sent as well, and cannot be taken back there.
            self._wandb = WandbRun(project, directory, resolved or {}, _last_steps(text for _, text in records))
        if records:
            write_atomically(self.path, "".join(text + "\n" for step, text in records if step <= resumed_at))
        self._file = self.path.open("a", buffering=1)
        self._events = Charts(directory / "tensorboard", resumed_at + 1)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Add one record; `kind` is train or validation."""
        if self._quiet:
            return
        self._file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        self._chart(step, kind, values)

    def write_speed(self, step: int, values: Mapping[str, float]) -> None:
        """Rates of the last steps, for the charts only: metrics.jsonl holds nothing that depends on the machine."""
        if not self._quiet:
            self._chart(step, "speed", values)

    def _chart(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._events.add(f"{kind}/{name}", value, step)
        if self._wandb is not None:
            self._wandb.write(step, kind, values)

    def close(self, failed: bool = False) -> None:
        """Flush and close; `failed` marks the run as such where others see it."""
        if self._quiet:
            return
        try:
            self._file.close()
            self._events.close()
        finally:
            if self._wandb is not None:
                self._wandb.close(failed)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # a line cut short by a kill


def _last_steps(lines: Any) -> dict[str, int]:
    """The last step of every kind of record."""
    last: dict[str, int] = {}
    for text in lines:
        if np.isfinite(_step(text)):
            record = json.loads(text)
            last[record["kind"]] = max(last.get(record["kind"], 0), record["step"])
    return last


@dataclass(frozen=True)
class Work:
    """What training on each of N rows asks for: tokens [N], pairs [N] and FLOPs [N], padding not counted."""

    tokens: np.ndarray
    pairs: np.ndarray
    flops: np.ndarray

    @classmethod
    def of(cls, rows: Rows, spec: ModelSpec, lora: LoRASettings | None = None) -> Work:
        """Useful work only: what is computed again to save memory, or for padding, would flatter the utilisation.

        The backward pass does every product twice more, once for its input and once for its weight; frozen weights
        (`lora`) take only the first. Attention counts the keys that the mask and windows show, the head only the
        tokens that are scored. A multiply-add is 2 FLOPs.
        """
        real = np.arange(rows.tokens.shape[1]) < rows.length[:, None]
        tokens = rows.length.astype(np.int64)
        seen = rows.positions.astype(np.int64) + 1  # a token sees its own path
        by_window = {
            window: (np.minimum(seen, window) if window else seen).sum(axis=1, where=real) for window in {*spec.windows}
        } or {0: seen.sum(axis=1, where=real)}
        keys = sum(by_window[window] for window in spec.windows or (0,) * spec.layers)
        head = 2 * spec.vocab * spec.width
        products = (spec.forward_flops(1, 0) - head) * tokens + head * rows.reply_length.sum(axis=1, dtype=np.int64)
        flops = 3 * 4 * spec.query_heads * spec.head_size * keys
        if lora is None:
            flops = flops + 3 * products
        else:
            trained = sum(int(np.prod(weight.shape)) for weight in spec.adapters(lora).values())
            flops = flops + 2 * products + 3 * 2 * trained * tokens
        return cls(tokens, (rows.pair_turn > 0).sum(axis=1), flops.astype(np.float64))

    def over(self, index: np.ndarray) -> tuple[int, int, float]:
        """(tokens, pairs, FLOPs) of the rows with these numbers."""
        return int(self.tokens[index].sum()), int(self.pairs[index].sum()), float(self.flops[index].sum())


class Throughput:
    """Tokens, pairs and useful FLOPs per second since the last reading, over all `devices`."""

    def __init__(self, devices: list[jax.Device]):
        peak = peak_flops(devices[0])
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
