"""Every weight, once: shape, logical axes, initial value. Shardings, checkpoints and conversion read this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from aloe_jax.models.spec import ModelSpec
from aloe_jax.parallel.mesh import sharding

Initialiser = Callable[[jax.Array, tuple[int, ...]], jax.Array]


@dataclass(frozen=True)
class Weight:
    """One parameter. `initialiser(key, shape)` returns float32."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]  # logical names, one a dimension: see parallel/mesh.py
    initialiser: Initialiser


def normal(deviation: float) -> Initialiser:
    """Values drawn from a normal distribution around zero."""
    return lambda key, shape: deviation * jax.random.normal(key, shape, jnp.float32)


def zeros(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A product or bias that adds nothing yet."""
    return jnp.zeros(shape, jnp.float32)


def ones(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The scale of a norm that does nothing yet."""
    return jnp.ones(shape, jnp.float32)


def weights(spec: ModelSpec) -> dict[str, Weight]:
    """All weights of a model by their dotted name; those of a decoder under `layers.` are stacked over L."""
    if not isinstance(spec, ModelSpec):  # one of MaxText's, which tells its own
        return spec.weights()
    vocab, layers, width = spec.vocab, spec.layers, spec.width
    queries, keys, size, inner = spec.query_heads, spec.kv_heads, spec.head_size, spec.feed_forward
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
    if spec.norm == "layer":  # has no weights
        described = {name: weight for name, weight in described.items() if not name.endswith("_norm")}
    if not spec.tie_embeddings:
        described["head"] = Weight((width, vocab), ("width", "vocab"), plain)
    if spec.qk_norm != "none":
        for name, heads in (("query", queries), ("key", keys)):
            length = size if spec.qk_norm == "head" else heads * size
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
    for name in spec.biases:
        axis, length = spans[name]
        described[f"layers.{name}_bias"] = layer((axis,), (length,), zeros)
    return described


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """{"layers.query": x} as {"layers": {"query": x}}, the form of `nnx.to_pure_dict`."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *groups, last = name.split(".")
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return tree


def weight_sharding(weight: Weight, mesh: Mesh) -> NamedSharding:
    """Where one weight lies on a mesh; dimensions that the mesh does not divide are replicated."""
    return sharding(mesh, weight.axes, weight.shape)


def parameter_shardings(spec: ModelSpec, mesh: Mesh) -> dict[str, Any]:
    """The sharding of every parameter, as a nested dict like `nnx.to_pure_dict(nnx.state(model, nnx.Param))`."""
    return nested({name: weight_sharding(weight, mesh) for name, weight in weights(spec).items()})
