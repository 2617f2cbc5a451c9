"""A model of MaxText's with the interface of our own decoder: see backend.py for what that is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from aloe_jax.errors import AloeError
from aloe_jax.models.decoder import Compute
from aloe_jax.models.maxtext import internals
from aloe_jax.models.maxtext.kernels import NAMES
from aloe_jax.models.maxtext.layers import apart
from aloe_jax.models.maxtext.spec import MaxTextSpec
from aloe_jax.parallel.mesh import constrain

REMAT = {"none": "none", "full": "full", "dots": "minimal"}


class MaxTextDecoder(nnx.Module):
    """Holds the weights by MaxText's names, and nothing else of it; its modules are put together while tracing.

    With the attention `tpu` or `gpu` subtree_end numbers the segments of a row, which must be paths: see kernels.py.
    """

    def __init__(self, spec: MaxTextSpec, parameters: Mapping[str, Any], compute: Compute, mesh: Mesh) -> None:
        if compute.attention not in NAMES:
            raise AloeError(f"model.attention: MaxText has no {compute.attention} attention; set auto or dense")
        self.spec, self.compute, self.mesh = spec, compute, mesh
        self.lora = None
        for name, values in parameters.items():
            setattr(self, name, _dict(values))

    def __call__(
        self, tokens: jax.Array, positions: jax.Array | None = None, subtree_end: jax.Array | None = None
    ) -> jax.Array:
        """Logits of the next token: int [B,T] -> float32 [B,T,V]."""
        return self.logits(self.hidden(tokens, positions, subtree_end))

    def hidden(
        self, tokens: jax.Array, positions: jax.Array | None = None, subtree_end: jax.Array | None = None
    ) -> jax.Array:
        """States after the final norm, as of `Decoder.hidden`."""
        return self.penalised_hidden(tokens, positions, subtree_end)[0]

    def penalised_hidden(
        self, tokens: jax.Array, positions: jax.Array | None = None, subtree_end: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """`hidden`, and the routers' loss (a scalar, the mean over layers) where load_balance_loss_weight is set.

        It counts every place of the rows, padding too, as MaxText's own training does.
        """
        if positions is None:
            positions = jnp.arange(tokens.shape[1])[None]
        positions = jnp.broadcast_to(positions, tokens.shape)
        states, left = internals.states(self._skeleton(), self._weights(), tokens, positions, subtree_end)
        losses = [jnp.ravel(x) for name, value in left.items() if "moe_lb_loss" in name for x in jax.tree.leaves(value)]
        return states, jnp.concatenate(losses).mean().astype(jnp.float32) if losses else None

    @property
    def final_cap(self) -> float | None:
        """c of logits c·tanh(x / c), None where they are not capped."""
        return self.spec.final_cap

    @property
    def attention_cap(self) -> float | None:
        """c of attention scores c·tanh(x / c), None where they are not capped."""
        return float(self.spec.resolved.attn_logits_soft_cap or 0.0) or None

    def unembedding(self) -> jax.Array:
        """The head [D,V] in the compute type."""
        config = self.spec.resolved
        weights = self._weights()
        if self.spec.tie_embeddings:
            weight = weights["token_embedder.embedding"].T
            if config.normalize_embedding_logits:  # the embedding is held times √D
                weight = weight / jnp.sqrt(jnp.float32(self.spec.width)).astype(weight.dtype)
        else:
            weight = weights["decoder.logits_dense.kernel"]
        weight = constrain(weight.astype(self.compute.dtype), ("width", "vocab"))
        return constrain(weight, ("features", "vocab"))

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[...,D] -> float32 [...,V]."""
        made = jnp.matmul(hidden, self.unembedding(), preferred_element_type=jnp.float32)
        cap = self.final_cap
        return made if cap is None else cap * jnp.tanh(made / cap)

    def unstacked(self) -> dict[str, jax.Array]:
        """The weights of every layer apart, in the compute type; see `Decoder.unstacked`.

        Raises AloeError for attention that a cache of keys and values does not do.
        """
        if (what := uncached(self.spec)) is not None:
            raise AloeError(
                f"{self.spec.name}: has {what}, which the cache of replies does not do; export the model and serve it "
                "with another program"
            )
        made = self._skeleton(unrolled=True)
        weights = apart(self._weights(), made.shapes, self.spec.resolved.param_scan_axis)
        return {
            name: weight if weight.ndim < 2 else weight.astype(self.compute.dtype) for name, weight in weights.items()
        }

    def cached(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        layers: Mapping[str, jax.Array],
        attention: Callable[[int, jax.Array, jax.Array, jax.Array], jax.Array],
    ) -> jax.Array:
        """As of `Decoder.cached`."""
        root = self.spec.head_size**0.5  # queries come divided by it, and are divided there

        def given(index: int, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
            return attention(index, query * root, key, value)

        def each() -> Iterator[internals.Attention]:
            for index in range(len(self.spec.attention)):
                yield functools.partial(given, index)

        states, _ = internals.states(self._skeleton(unrolled=True), layers, tokens, positions, None, each())
        return states

    def _skeleton(self, unrolled: bool = False) -> internals.Skeleton:
        compute: dict[str, Any] = {
            "dtype": self.compute.dtype,
            "remat_policy": REMAT[self.compute.remat],
            "attention": NAMES[self.compute.attention],
        }
        if self.mesh.devices.flat[0].platform != "tpu":
            compute |= {"megablox": False}  # a TPU kernel, which elsewhere is interpreted, hundreds of times slower
        return self.spec.skeleton(self.mesh, compute, unrolled)

    def _weights(self) -> dict[str, jax.Array]:
        state = nnx.to_flat_state(nnx.state(self, nnx.Param))
        return {".".join(map(str, path)): variable[...] for path, variable in state}


def uncached(spec: MaxTextSpec) -> str | None:
    """What a model's attention has that a cache of keys and values does not do, None where there is nothing."""
    resolved = spec.resolved
    if resolved.attention_type == "mla":
        return "keys and values of different sizes (MLA)"
    if resolved.attention_sink or resolved.decoder_block.name == "GPT_OSS":
        return "attention sinks"
    other = resolved.global_head_dim or spec.head_size, resolved.global_num_kv_heads or spec.kv_heads
    if other != (spec.head_size, spec.kv_heads):
        return "layers whose heads differ in number or size"
    return None


def assemble(spec: MaxTextSpec, parameters: Mapping[str, Any], compute: Compute | None = None) -> MaxTextDecoder:
    """A model around parameters that exist, as a nested dict; it lies where they lie."""
    return MaxTextDecoder(spec, parameters, compute or Compute(), _mesh(parameters))


def new_parameters(spec: MaxTextSpec, seed: int, dtype: str, mesh: Mesh) -> dict[str, jax.Array]:
    """MaxText's initial weights by dotted name; to be called under jit, whose out_shardings place them."""
    drawn = internals.initial(spec.name, spec.computed(), mesh, seed)
    return {name: value.astype(dtype) for name, value in drawn.items()}


def _mesh(parameters: Mapping[str, Any]) -> Mesh:
    for leaf in jax.tree.leaves(parameters):
        place = getattr(leaf, "sharding", None)
        if isinstance(place, NamedSharding) and isinstance(place.mesh, Mesh):
            return place.mesh
    return internals.lone_mesh()


def _dict(values: Mapping[str, Any]) -> Any:
    return nnx.Dict(
        {name: _dict(value) if isinstance(value, Mapping) else nnx.Param(value) for name, value in values.items()}
    )
