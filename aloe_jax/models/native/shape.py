"""The shape of a decoder: its sizes and switches, the weights that follow, and what a token costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from aloe_jax.errors import AloeError
from aloe_jax.models.native.families import FAMILIES, keys
from aloe_jax.models.native.lora import uniform
from aloe_jax.models.settings import LoRASettings
from aloe_jax.models.weights import Initialiser, Weight, normal, ones, zeros


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """What distinguishes one Llama-like decoder from another. Lists are accepted for the tuples (JSON has none)."""

    vocab: int  # V
    layers: int  # L
    width: int  # D
    query_heads: int  # N
    kv_heads: int  # K
    head_size: int  # H
    feed_forward: int  # F
    max_length: int  # tokens of the longest path that the model was made for
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None
    # Llama 3.1's stretched RoPE: factor, low_freq_factor, high_freq_factor, original_max_position_embeddings.
    rope_scaling: tuple[float, float, float, float] | None = None
    # What other families add to Llama's arithmetic.
    family: str = "llama"  # model_type in config.json
    biases: tuple[str, ...] = ()  # the layer's products that add a bias: query, key, value, output, gate, up, down
    windows: tuple[int, ...] = ()  # of every layer: how many tokens of its path a token sees; 0, or no entry: all
    norm: Literal["rms", "layer"] = "rms"  # layer: LayerNorm without weights
    norm_place: Literal["input", "output"] = "input"  # of attention and feed-forward
    qk_norm: Literal["none", "head", "projection"] = "none"  # RMSNorm of queries and keys: by head, or over all heads
    clip_qkv: float | None = None  # largest magnitude of queries, keys and values

    def __post_init__(self) -> None:
        for name in ("eos_ids", "rope_scaling", "biases", "windows"):
            value = getattr(self, name)
            object.__setattr__(self, name, value if value is None else tuple(value))
        if self.family not in FAMILIES:
            raise AloeError(f"model: family is {self.family!r}; supported: {', '.join(FAMILIES)}")
        if self.windows and len(self.windows) != self.layers:
            raise AloeError(f"model: {len(self.windows)} windows for {self.layers} layers")
        if self.query_heads % self.kv_heads:
            raise AloeError(
                f"model: {self.query_heads} query heads cannot share {self.kv_heads} key/value heads; "
                "make the first a multiple of the second"
            )
        if self.head_size < 2 or self.head_size % 2:
            raise AloeError(f"model: head_size must be even for rotary positions, not {self.head_size}")

    def weights(self) -> dict[str, Weight]:
        """All weights by their dotted name; those under `layers.` are stacked over L."""
        vocab, layers, width = self.vocab, self.layers, self.width
        queries, keys, size, inner = self.query_heads, self.kv_heads, self.head_size, self.feed_forward
        plain = normal(width**-0.5)
        # What is added to the residual stream starts at zero: every layer begins as the identity, so a token's own
        # embedding is what attention sees first. Small models learn to look things up in fewer steps that way.
        residual = zeros

        def layer(axes: tuple[str | None, ...], shape: tuple[int, ...], initialiser: Initialiser) -> Weight:
            return Weight((layers, *shape), ("layers", *axes), initialiser)

        described = {
            "embedding": Weight((vocab, width), ("vocab", "width"), plain),
            "layers.attention_norm": layer((None,), (width,), ones),
            "layers.query": layer(("width", "query_heads", "head_size"), (width, queries, size), plain),
            "layers.key": layer(("width", "kv_heads", "head_size"), (width, keys, size), plain),
            "layers.value": layer(("width", "kv_heads", "head_size"), (width, keys, size), plain),
            "layers.output": layer(("query_heads", "head_size", "width"), (queries, size, width), residual),
            "layers.feed_forward_norm": layer((None,), (width,), ones),
            "layers.gate": layer(("width", "feed_forward"), (width, inner), plain),
            "layers.up": layer(("width", "feed_forward"), (width, inner), plain),
            "layers.down": layer(("feed_forward", "width"), (inner, width), residual),
            "final_norm": Weight((width,), (None,), ones),
        }
        if self.norm == "layer":  # has no weights
            described = {name: weight for name, weight in described.items() if not name.endswith("_norm")}
        if not self.tie_embeddings:
            described["head"] = Weight((width, vocab), ("width", "vocab"), plain)
        if self.qk_norm != "none":
            for name, heads in (("query", queries), ("key", keys)):
                length = size if self.qk_norm == "head" else heads * size
                described[f"layers.{name}_norm"] = layer((None,), (length,), ones)
        # Biases are vectors, those of heads too (all heads' one after the other): weight decay leaves vectors out.
        spans: dict[str, tuple[str | None, int]] = {
            "query": ("query_heads", queries * size),
            "key": ("kv_heads", keys * size),
            "value": ("kv_heads", keys * size),
            "output": (None, width),
            "gate": ("feed_forward", inner),
            "up": ("feed_forward", inner),
            "down": (None, width),
        }
        for name in self.biases:
            axis, length = spans[name]
            described[f"layers.{name}_bias"] = layer((axis,), (length,), zeros)
        return described

    def stacked(self) -> dict[str, int]:
        """See ModelSpec."""
        return {name: self.layers for name in self.weights() if name.startswith("layers.")}

    def unstacked_axes(self, lora: LoRASettings | None = None) -> tuple[dict[str, tuple[str | None, ...]], ...]:
        """See ModelSpec."""
        return (self.layer_axes(lora),) * self.layers

    def layer_axes(self, lora: LoRASettings | None) -> dict[str, tuple[str | None, ...]]:
        """The logical axes of a layer's weights and adapters by name, without the leading L."""
        described = self.weights()
        if lora is not None:
            described |= {f"layers.{name}": weight for name, weight in self.adapters(lora).items()}
        return {
            name.removeprefix("layers."): weight.axes[1:]
            for name, weight in described.items()
            if name.startswith("layers.")
        }

    def adapters(self, lora: LoRASettings) -> dict[str, Weight]:
        """The adapters of every target, A [L, *inputs, rank] and B [L, rank, *outputs], as `query_a` and `query_b`."""
        weights, table = self.weights(), keys(self.family)
        described: dict[str, Weight] = {}
        for target in lora.targets:
            base = weights[f"layers.{target}"]
            cut = 1 + table[f"layers.{target}"][1]
            inputs, outputs = base.shape[1:cut], base.shape[cut:]
            described[f"{target}_a"] = Weight(
                (self.layers, *inputs, lora.rank),
                ("layers", *base.axes[1:cut], None),
                uniform(math.prod(inputs) ** -0.5),
            )
            described[f"{target}_b"] = Weight(
                (self.layers, lora.rank, *outputs), ("layers", None, *base.axes[cut:]), zeros
            )
        return described

    def active_matrices(self) -> int:
        """See ModelSpec."""
        attention = self.width * self.head_size * 2 * (self.query_heads + self.kv_heads)
        return self.layers * (attention + 3 * self.width * self.feed_forward)
