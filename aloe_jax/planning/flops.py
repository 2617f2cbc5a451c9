"""Floating-point operations of a training step as the chips compute it, beside those that training needs.

Utilisation is reported by useful work, `training.metrics.Work`: real tokens, visible keys, scored tokens. What is
computed is more: padding, whole blocks of scores where the mask shows a part, and what rematerialisation computes
again. A multiply-add is 2; norms, rotary positions, softmax and the optimizer are left out.

Shapes: B rows of a step, T tokens of a row, S slots for scored tokens of a row, R adapters' rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from aloe_jax.data.packing import Rows
from aloe_jax.errors import AloeError
from aloe_jax.models.kernels.schedule import EMPTY, Mask, block_kinds
from aloe_jax.models.kernels.tpu import block_size
from aloe_jax.models.spec import ModelSpec
from aloe_jax.training.settings import TrainSettings

KERNEL_PASSES = 2 + 7  # products of a block of scores: 2 forward, 3 for queries' gradients, 4 for keys' and values'
DENSE_PASSES = 2 + 4  # without a kernel: the scores are kept for the backward pass
MOST_BLOCKS = 2**28
SAMPLE = 64  # rows of which the visited blocks are counted


@dataclass(frozen=True)
class Flops:
    """Of one step over all chips, by what computes them."""

    layers: float  # products with weights
    attention: float
    head: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.layers + self.attention + self.head

    def times(self, passes: float) -> Flops:
        """Of so many steps."""
        return Flops(passes * self.layers, passes * self.attention, passes * self.head)


def computed(settings: TrainSettings, spec: ModelSpec, scored: int, pairs: float) -> Flops:
    """What the chips compute in one step; `scored` slots a row go through the head, and the attention computes `pairs`
    scores of (query, key) a row (see `scores`; all T² of them without a kernel, as MaxText computes trees).

    Products with weights: forward, the gradient to the input, and the gradient to what is trained. `remat: full`
    computes the forward pass of a layer again; `dots` keeps its products and computes again the attention alone. Of
    experts those count that a token goes through. `settings` are resolved: their attention is a method, not `auto`.
    """
    tokens = settings.data.rows * settings.data.row_length
    once = 2 * tokens * spec.computed_matrices()
    again = {"none": 0, "dots": 0, "full": 1}[settings.model.remat]
    lora = settings.model.lora
    if lora is None:
        products = once * (3 + again)
    else:
        low = 2 * tokens * sum(math.prod(weight.shape) for weight in spec.adapters(lora).values())
        products = once * (2 + again) + low * (3 + again)
    data = settings.data
    dense = settings.model.attention == "dense"
    passes = (DENSE_PASSES if dense else KERNEL_PASSES) + (2 if settings.model.remat != "none" else 0)
    pairs = float(data.row_length**2) if dense else pairs
    attention = passes * 2 * spec.score_values() * data.rows * pairs
    # The head's forward pass, its products once more in the backward pass, and two gradients; frozen weights need one.
    head = 2 * settings.data.rows * scored * spec.vocab * spec.width * (4 if lora is None else 3)
    return Flops(products, attention, head)


def scores(rows: Rows) -> float:
    """Scores that the attention computes for a row on average: those of the blocks that the kernel visits.

    Raises AloeError for rows so long that their blocks do not fit into memory: XLA would end the process.
    """
    length = rows.tokens.shape[1]
    block = block_size(length)
    some = np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int)
    if len(some) * (length / block) ** 2 > MOST_BLOCKS:
        raise AloeError(f"data.row_length: a row of {length:,} tokens is too long to be planned; give a shorter one")
    with jax.default_device(jax.devices("cpu")[0]):
        kinds = np.asarray(block_kinds(Mask(jnp.asarray(rows.subtree_end[some])).padded(block), block))
    return float((kinds != EMPTY).sum() / len(some) * block**2)
