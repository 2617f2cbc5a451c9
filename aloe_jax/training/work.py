"""What training on rows asks for: tokens, pairs and useful FLOPs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aloe_jax.data.packing import Part, Rows
from aloe_jax.models.settings import LoRASettings
from aloe_jax.models.spec import ModelSpec


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

    def mean_step(self, shown: np.ndarray, rows: int) -> tuple[float, float, float]:
        """(tokens, pairs, FLOPs) of a step of `rows` rows in the mean, where an epoch shows each row `shown` times."""
        tokens, pairs, flops = (mean_step(values, shown, rows) for values in (self.tokens, self.pairs, self.flops))
        return tokens, pairs, flops


def mean_step(of_rows: np.ndarray, shown: np.ndarray, rows: int) -> float:
    """The mean over steps of the sum of `of_rows` [N] over the rows of a step."""
    return rows * float((shown * of_rows).sum() / shown.sum())


def times_shown(count: int, parts: tuple[Part, ...]) -> np.ndarray:
    """How often an epoch shows each of `count` rows: the weight of its part of the mixture."""
    shown = np.zeros(count)
    for part in parts:
        shown[part.start : part.stop] = part.weight
    return shown
