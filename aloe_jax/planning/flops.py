"""Floating-point operations of a training step as the chips compute it, beside those that training needs.

Useful work, by which utilisation is told, is `training.metrics.Work`: real tokens, visible keys, scored tokens. What
is computed is more: padding, whole blocks of scores where the mask shows a part, and what rematerialisation computes
again. A multiply-add is 2; norms, rotary positions, softmax and the optimizer are left out.

Shapes: B rows of a step, T tokens of a row, S slots for scored tokens of a row, R adapters' rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aloe_jax.data.packing import Rows
from aloe_jax.errors import AloeError
from aloe_jax.models.kernels.schedule import EMPTY, Mask, block_kinds
from aloe_jax.models.kernels.tpu import block_size
from aloe_jax.models.spec import ModelSpec
from aloe_jax.models.weights import weights
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


def computed(settings: TrainSettings, spec: Any, scored: int, pairs: float) -> Flops:
    """What the chips compute in one step; `scored` slots a row go through the head, and the attention computes `pairs`
    scores of (query, key) a row (see `scores`; all T² of them without a kernel, as MaxText computes trees).

    Products with weights: forward, the gradient to the input, and the gradient to what is trained. `remat: full`
    computes the forward pass of a layer again; `dots` keeps its products and computes again the attention alone. Of
    experts those count that a token goes through.
    """
    native = isinstance(spec, ModelSpec)
    tokens = settings.data.rows * settings.data.row_length
    once = 2 * tokens * (spec.layers * _layer_values(spec) if native else active_values(spec))
    again = {"none": 0, "dots": 0, "full": 1}[settings.model.remat]
    lora = settings.model.lora
    if lora is None:
        products = once * (3 + again)
    else:
        from aloe_jax.models.lora import adapters

        low = 2 * tokens * sum(math.prod(weight.shape) for weight in adapters(spec, lora).values())
        products = once * (2 + again) + low * (3 + again)
    kernel = settings.model.attention != "dense" and (native or settings.data.packing == "paths")
    passes = (KERNEL_PASSES if kernel else DENSE_PASSES) + (2 if settings.model.remat != "none" else 0)
    pairs = pairs if native or kernel else float(settings.data.row_length**2)
    sizes = spec.query_heads * spec.head_size * spec.layers if native else score_values(spec)
    attention = passes * 2 * sizes * settings.data.rows * pairs
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


def active_values(spec: Any) -> float:
    """Values of the matrices in the layers of one of MaxText's models that a token goes through."""
    from aloe_jax.models.maxtext.spec import BLOCKS

    dense = not spec.resolved.sparse_matmul  # there every expert computes every token
    share = spec.resolved.num_experts_per_tok / spec.experts if spec.experts > 1 and not dense else 1.0
    total = 0.0
    for name, weight in weights(spec).items():
        *path, last = name.split(".")
        if last in BLOCKS:
            total += share * math.prod(weight.shape)
        elif last == "kernel" and "logits_dense" not in path:
            total += math.prod(weight.shape)
    return total


def score_values(spec: Any) -> float:
    """Values that meet in a score or are mixed by it, all heads and layers of one of MaxText's models: half of both."""
    resolved = spec.resolved
    if resolved.attention_type == "mla":
        met, mixed = resolved.qk_nope_head_dim + resolved.qk_rope_head_dim, resolved.v_head_dim
        return spec.layers * spec.query_heads * (met + mixed) / 2
    return spec.layers * spec.query_heads * spec.head_size


def _layer_values(spec: ModelSpec) -> int:
    """Values of a layer's matrices."""
    return spec.width * spec.head_size * 2 * (spec.query_heads + spec.kv_heads) + 3 * spec.width * spec.feed_forward
