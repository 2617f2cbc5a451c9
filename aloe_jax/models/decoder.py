"""The decoder: Llama's arithmetic and what other families add to it, layers stacked and scanned.

Numerics follow transformers: RMSNorm, rotary positions on half-split heads, grouped-query attention, SwiGLU, and by
the switches of `ModelSpec` sliding windows, biases, other norms in other places, clipping. Shapes: B batch, T tokens,
D model, N/K query and key heads, H head size, F feed-forward, V vocabulary, L layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from aloe_jax.models.attention import attend
from aloe_jax.models.lora import adapters, delta, dense
from aloe_jax.models.products import gated, product
from aloe_jax.models.settings import Attention, LoRASettings, Remat
from aloe_jax.models.spec import ModelSpec
from aloe_jax.models.weights import nested, weights
from aloe_jax.parallel.mesh import constrain, gathered, gathers

Layer = dict[str, Any]  # the weights and adapters of one layer by name, without the leading L
NO_WINDOW = 2**30  # tokens: more than any path has


@dataclass(frozen=True)
class Compute:
    """How a model is computed; none of it changes what is computed, save rounding."""

    attention: Attention = "auto"
    remat: Remat = "none"  # what the backward pass recomputes of a layer
    unroll: int = 1  # layers a scan step
    dtype: str = "float32"  # of activations and of weights in products; norms and softmax are float32


class Decoder(nnx.Module):
    """A causal language model over token trees. Its parameters are `weights(spec)`, as nnx.Param.

    With adapters (see lora.py), `lora` says which, and `adapters` holds them.
    """

    adapters: nnx.Dict
    attention_cap: float | None = None  # see Policy: our families cap nothing
    final_cap: float | None = None

    def __init__(
        self, spec: ModelSpec, *, rngs: nnx.Rngs, dtype: str = "float32", compute: Compute | None = None
    ) -> None:
        self.spec = spec
        self.compute = compute or Compute()
        self.lora: LoRASettings | None = None
        tree = nested(
            {
                name: nnx.Param(weight.initialiser(rngs.params(), weight.shape).astype(dtype))
                for name, weight in weights(spec).items()
            }
        )
        self.embedding = tree["embedding"]
        self.layers = nnx.Dict(tree["layers"])
        if "final_norm" in tree:
            self.final_norm = tree["final_norm"]
        if not spec.tie_embeddings:
            self.head = tree["head"]

    def __call__(
        self, tokens: jax.Array, positions: jax.Array | None = None, subtree_end: jax.Array | None = None
    ) -> jax.Array:
        """Logits of the next token: int [B,T] -> float32 [B,T,V]. See `hidden`."""
        return self.logits(self.hidden(tokens, positions, subtree_end))

    def hidden(
        self, tokens: jax.Array, positions: jax.Array | None = None, subtree_end: jax.Array | None = None
    ) -> jax.Array:
        """States after the final norm: int [B,T] -> [B,T,D] in the compute type.

        `positions` [B,T] (default 0..T-1) is each token's depth on its own path; `subtree_end` [B,T]
        (default: plain causal) is the exclusive index at which the subtree of the token's node ends: query q
        sees key k when k <= q < subtree_end[k].
        """
        if positions is None:
            positions = jnp.arange(tokens.shape[1])[None]
        rotation = rope_rotation(self.spec, positions)

        def step(x: jax.Array, inputs: tuple[Layer, jax.Array | None]) -> tuple[jax.Array, None]:
            layer, window = inputs

            def mix(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
                return attend(query, key, value, subtree_end, self.compute.attention, positions, window)

            return self._layer(x, self._whole(layer), rotation, mix), None

        step = rematerialised(step, self.compute.remat)
        windows = jnp.array([window or NO_WINDOW for window in self.spec.windows]) if self.spec.windows else None
        x, _ = lax.scan(step, self._embed(tokens), (self._stacked(), windows), unroll=self.compute.unroll)
        return self._final(x)

    def unstacked(self) -> tuple[Layer, ...]:
        """The weights of every layer as arrays of their own, in the compute type where they are used in it.

        A loop that runs the layers many times reads these; out of the stack, each would be copied at every step.
        """
        axes = self._axes()

        def held(name: str, weight: Any) -> Any:
            """Norms stay as they are, and so does what is held in few bits."""
            if not isinstance(weight, jax.Array):
                return weight
            part = constrain(weight, axes[name])
            return part if name.endswith("_norm") else part.astype(self.compute.dtype)

        return tuple(
            {name: held(name, jax.tree.map(lambda w: w[i], weight)) for name, weight in self._stacked().items()}  # noqa: B023
            for i in range(self.spec.layers)
        )

    def cached(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        layers: Sequence[Layer],
        attention: Callable[[int, jax.Array, jax.Array, jax.Array], jax.Array],
    ) -> jax.Array:
        """As `hidden`, where the tokens attend to what the caller keeps: int [B,T] at int [B,T] -> [B,T,D].

        `layers` as from `unstacked`. `attention` gets the number of the layer, its queries [B,T,N,H], keys and values
        [B,T,K,H] with rotary positions, and gives [B,T,N,H].
        """
        rotation = rope_rotation(self.spec, positions)
        x = self._embed(tokens)
        for index, layer in enumerate(layers):
            x = self._layer(x, layer, rotation, functools.partial(attention, index))
        return self._final(x)

    def unembedding(self) -> jax.Array:
        """The head [D,V] in the compute type: the transposed embedding where they are tied."""
        weight = self.embedding[...].T if self.spec.tie_embeddings else self.head[...]
        # Whole along D on every device that has rows: split there, the rows' states would travel instead. Cast before
        # it travels, which XLA by itself may put off.
        return gathered(weight.astype(self.compute.dtype), ("width", "vocab"))

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[...,D] -> float32 [...,V], float64 where that is what comes in."""
        with jax.named_scope("head"):
            return jnp.matmul(hidden, self.unembedding(), preferred_element_type=wide_type(hidden))

    def _embed(self, tokens: jax.Array) -> jax.Array:
        with jax.named_scope("embed"):
            table = constrain(self.embedding[...].astype(self.compute.dtype), ("vocab", "width"))
            table = constrain(table, ("vocab", "features"))
            x = constrain(table[tokens], ("batch", "length", "features"))
            return constrain(x, ("batch", "residual_length", "features"))

    def _axes(self) -> dict[str, tuple[str | None, ...]]:
        """The logical axes of a layer's weights and adapters by name, without the leading L."""
        described = weights(self.spec)
        if self.lora is not None:
            described |= {f"layers.{name}": weight for name, weight in adapters(self.spec, self.lora).items()}
        return {
            name.removeprefix("layers."): weight.axes[1:]
            for name, weight in described.items()
            if name.startswith("layers.")
        }

    def _whole(self, layer: Layer) -> Layer:
        """A layer for many tokens: what is split over devices that have other rows, brought together.

        Not where the backward pass recomputes nothing: it would keep every layer whole. There XLA finds its own way.
        """
        if not gathers() or self.compute.remat == "none":
            return layer
        axes = self._axes()
        return {
            name: w if name.endswith("_norm") else gathered(dense(w).astype(self.compute.dtype), axes[name])
            for name, w in layer.items()
        }

    def _stacked(self) -> Layer:
        adapters = {name: value[...] for name, value in self.adapters.items()} if self.lora is not None else {}
        return {name: param[...] for name, param in self.layers.items()} | adapters

    def _layer(
        self,
        x: jax.Array,
        layer: Layer,
        rotation: tuple[jax.Array, jax.Array],
        mix: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    ) -> jax.Array:
        """One layer: [B,T,D] -> [B,T,D]; `mix` is the attention over q [B,T,N,H], k and v [B,T,K,H]."""
        spec = self.spec
        weight = {name: w if name.endswith("_norm") else dense(w).astype(x.dtype) for name, w in layer.items()}
        features = ("batch", "residual_length", "features")

        def norm(name: str, place: str, x: jax.Array) -> jax.Array:
            return self._norm(x, weight.get(name)) if spec.norm_place == place else x

        def adapted(name: str, x: jax.Array, made: jax.Array) -> jax.Array:
            if self.lora is None or name not in self.lora.targets:
                return made
            return made + delta(x, weight[f"{name}_a"], weight[f"{name}_b"], self.lora)

        def heads(name: str, x: jax.Array) -> jax.Array:
            """Queries, keys or values: [B,T,D] -> [B,T,heads,H]."""
            made = adapted(name, x, product(x, weight[name]))
            if name in spec.biases:
                made = made + weight[f"{name}_bias"].reshape(1, 1, *made.shape[2:])
            if spec.clip_qkv is not None:
                made = jnp.clip(made, -spec.clip_qkv, spec.clip_qkv)
            if name != "value" and spec.qk_norm == "head":
                made = rms_norm(made, weight[f"{name}_norm"], spec.norm_eps)
            elif name != "value" and spec.qk_norm == "projection":
                flat = made.reshape(*made.shape[:2], -1)
                made = rms_norm(flat, weight[f"{name}_norm"], spec.norm_eps).reshape(made.shape)
            return constrain(made, ("batch", "length", "query_heads" if name == "query" else "kv_heads", "head_size"))

        def biased(name: str, x: jax.Array) -> jax.Array:
            return x + weight[f"{name}_bias"].reshape(1, 1, -1) if name in spec.biases else x

        with jax.named_scope("attention"):
            h = norm("attention_norm", "input", x)
            query, key, value = heads("query", h), heads("key", h), heads("value", h)
            mixed = mix(rotate(query, rotation), rotate(key, rotation), value)
            mixed = constrain(mixed, ("batch", "length", "query_heads", "head_size"))
            out = biased("output", adapted("output", mixed, product(mixed, weight["output"], 2)))
            x = constrain(x + norm("attention_norm", "output", out), features)
        with jax.named_scope("feed_forward"):
            h = norm("feed_forward_norm", "input", x)
            inner = ("batch", "length", "feed_forward")
            gate = constrain(biased("gate", adapted("gate", h, product(h, weight["gate"]))), inner)
            up = constrain(biased("up", adapted("up", h, product(h, weight["up"]))), inner)

            @jax.checkpoint  # of arrays [B,T,F] only gate and up are kept; the others are quickly made again
            def down(gate: jax.Array, up: jax.Array) -> jax.Array:
                h = gated(gate, up)
                return biased("down", adapted("down", h, product(h, weight["down"])))

            out = down(gate, up)
            return constrain(x + norm("feed_forward_norm", "output", out), features)

    def _norm(self, x: jax.Array, scale: jax.Array | None) -> jax.Array:
        return layer_norm(x, self.spec.norm_eps) if scale is None else rms_norm(x, scale, self.spec.norm_eps)

    def _final(self, x: jax.Array) -> jax.Array:
        return self._norm(x, None if self.spec.norm == "layer" else self.final_norm[...])


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / sqrt(mean(x²) + eps) * scale over the last axis, in float32 (Zhang and Sennrich 2019)."""
    wide = x.astype(wide_type(x))
    wide = wide * lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    scale = jnp.expand_dims(scale.astype(wide.dtype), tuple(range(x.ndim - 1)))
    return (wide * scale).astype(x.dtype)


def wide_type(x: jax.Array) -> jnp.dtype:
    """The type of sums and rotations: float32, float64 where that is what comes in."""
    return jnp.promote_types(x.dtype, jnp.float32)


def layer_norm(x: jax.Array, eps: float) -> jax.Array:
    """(x - mean(x)) / sqrt(variance(x) + eps) over the last axis, in float32 (Ba et al. 2016), without weights."""
    wide = x.astype(wide_type(x))
    wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
    return (wide * lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)).astype(x.dtype)


def rope_rotation(spec: ModelSpec, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of every rotary angle: int [B,T] -> two float32 [B,T,1,H/2] (Su et al. 2021)."""
    half = spec.head_size // 2
    frequency = spec.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if spec.rope_scaling is not None:
        # Llama 3.1: long waves are stretched by the factor, short ones kept, those between interpolated.
        factor, low, high, original = spec.rope_scaling
        turns = original * frequency / (2 * jnp.pi)  # full turns over the original context
        keep = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
        frequency = keep * frequency + (1 - keep) * frequency / factor
    angle = (positions[:, :, None].astype(jnp.float32) * frequency[None, None])[:, :, None]
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn the pairs (x[i], x[i + H/2]) of every head [B,T,heads,H] by their angles."""
    cosine, sine = rotation
    first, second = jnp.split(x.astype(wide_type(x)), 2, axis=-1)
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return turned.astype(x.dtype)


def rematerialised(step: Callable[..., Any], policy: str) -> Callable[..., Any]:
    """A scan step whose backward pass recomputes nothing, all but matrix products (dots), or all (full)."""
    if policy == "none":
        return step
    kept = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if policy == "dots" else None
    return jax.checkpoint(step, policy=kept, prevent_cse=False)


def assemble(spec: ModelSpec, parameters: dict[str, Any], compute: Compute | None = None) -> Decoder:
    """A decoder around parameters that exist: a nested dict as from `nnx.to_pure_dict`, of any float type."""
    abstract = nnx.eval_shape(lambda: Decoder(spec, rngs=nnx.Rngs(0), compute=compute))
    graph, state = nnx.split(abstract, nnx.Param)
    nnx.replace_by_pure_dict(state, parameters)
    return nnx.merge(graph, state)
