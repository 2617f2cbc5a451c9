"""The decoder: its layers stacked and scanned, and the spec that builds it.

Numerics follow transformers: RMSNorm, rotary positions on half-split heads, grouped-query attention, SwiGLU, and by
the switches of `DecoderShape` sliding windows, biases, other norms, clipping. Shapes: B batch, T tokens, D model,
N/K query and kv heads, H head size, F feed-forward, V vocabulary, L layers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import Mesh

from aloe_jax.errors import AloeError
from aloe_jax.models import generation
from aloe_jax.models.attention import attend
from aloe_jax.models.native import arithmetic, tensors
from aloe_jax.models.native.arithmetic import layer_norm, product, rms_norm
from aloe_jax.models.native.config_json import read_config, write_config
from aloe_jax.models.native.families import FAMILIES
from aloe_jax.models.native.lora import Adapter, added, delta, dense, draw, quantised
from aloe_jax.models.native.shape import DecoderShape
from aloe_jax.models.settings import LoRASettings, ModelSettings
from aloe_jax.models.spec import (
    JSON,
    Backend,
    CachedAttention,
    Compute,
    LanguageModel,
    Layer,
    Layers,
    ModelParts,
    ModelSpec,
    Parameters,
    TokenizerIds,
    named_parameters,
)
from aloe_jax.models.tensor_files import other_head, read_json, warn_once
from aloe_jax.models.values import Values
from aloe_jax.models.weights import Tree, Weight, flat, nested
from aloe_jax.parallel.mesh import constrain, gathered, gathers, sharding

NO_WINDOW = 2**30  # tokens: more than any path has


class DecoderSpec(DecoderShape, ModelSpec):
    """Our decoder of one shape; see ModelSpec."""

    backend: ClassVar[Backend] = "native"
    feed_forward_arrays: ClassVar = 2  # gate and up
    to_huggingface = write_config
    read_weights = tensors.read_weights
    stored_shapes = tensors.stored_shapes

    @classmethod
    def from_scratch(cls, model: ModelSettings, ids: TokenizerIds) -> Self:
        """By `model.architecture`. Raises AloeError when the heads do not divide the width."""
        shape = model.architecture
        assert ids.vocab is not None
        if shape.width % shape.query_heads:
            raise AloeError(
                f"model.architecture: width {shape.width} is not a multiple of query_heads {shape.query_heads}"
            )
        return cls(**dataclasses.asdict(ids), **shape.model_dump(), head_size=shape.width // shape.query_heads)

    @classmethod
    def from_json(cls, values: Values) -> Self:
        """See ModelSpec."""
        return cls(**values)

    @classmethod
    def from_huggingface(
        cls, values: Values, where: str = "config.json", overrides: Mapping[str, object] | None = None
    ) -> Self:
        """See ModelSpec. There are no overrides for our decoder."""
        return read_config(cls, values, where)

    @classmethod
    def read_huggingface(cls, path: Path, overrides: Mapping[str, object] | None = None) -> Self:
        """See ModelSpec.

        Where config.json ties the head to the embedding and the weights, if they are there, have another head, the
        spec is not tied: that head was trained, and is computed with.
        """
        spec = cls.from_huggingface(read_json(path / "config.json"), str(path / "config.json"))
        spec = generation.with_settings(spec, generation.read(path))
        if spec.tie_embeddings and other_head(path):
            warn_once(
                f"{path}: config.json ties the head to the embedding, but the weights have another head; it is used"
            )
            spec = dataclasses.replace(spec, tie_embeddings=False)
        return spec

    def __str__(self) -> str:
        """By the name that the class had in earlier versions: cached log-probs of references are found by this text."""
        return f"ModelSpec{repr(self).removeprefix(type(self).__name__)}"

    def to_json(self) -> dict[str, JSON]:
        """See ModelSpec."""
        return dataclasses.asdict(self)

    @property
    def title(self) -> str:
        """See ModelSpec."""
        return FAMILIES[self.family].title

    def assemble(self, parameters: Parameters, compute: Compute | None = None) -> Decoder:
        """See ModelSpec; `parameters` are of any float type."""
        abstract = nnx.eval_shape(lambda: Decoder(self, rngs=nnx.Rngs(0), compute=compute))
        graph, state = nnx.split(abstract, nnx.Param)
        nnx.replace_by_pure_dict(state, parameters)
        return nnx.merge(graph, state)

    def build(self, seed: int, dtype: str, mesh: Mesh, compute: Compute | None = None) -> Decoder:
        """See ModelSpec."""

        def drawn() -> Parameters:
            return nnx.to_pure_dict(nnx.state(Decoder(self, rngs=nnx.Rngs(seed), dtype=dtype), nnx.Param))

        return self.assemble(jax.jit(drawn, out_shardings=self.shardings(mesh))(), compute)

    def abstract(self, dtype: str, mesh: Mesh, compute: Compute, lora: LoRASettings | None = None) -> ModelParts:
        """See ModelSpec."""
        if lora is None:
            return super().abstract(dtype, mesh, compute)

        def new() -> LanguageModel:
            return Decoder(self, rngs=nnx.Rngs(0), dtype=dtype, compute=compute).adapted(lora, 0, dtype)

        graph, *parts = nnx.split(nnx.eval_shape(new), Adapter, nnx.Param)
        adapters, weights = map(nnx.to_pure_dict, parts)
        return ModelParts(
            graph, _on_mesh(adapters, self.trained(lora), mesh), (_on_mesh(weights, self.weights(), mesh),)
        )


class Decoder(LanguageModel):
    """Llama's arithmetic and what other families add to it. Its parameters are `spec.weights()`, as nnx.Param.

    With adapters (see lora.py), `lora` says which, and `adapters` has them.
    """

    spec: DecoderSpec
    adapters: nnx.Dict[Adapter]

    def __init__(
        self, spec: DecoderSpec, *, rngs: nnx.Rngs, dtype: str = "float32", compute: Compute | None = None
    ) -> None:
        self.spec = spec
        self.compute = compute or Compute()
        self.lora = None
        params = {
            name: nnx.Param(weight.initialiser(rngs.params(), weight.shape).astype(dtype))
            for name, weight in spec.weights().items()
        }
        self.embedding = params["embedding"]
        self.layers = nnx.Dict({n.removeprefix("layers."): p for n, p in params.items() if n.startswith("layers.")})
        if "final_norm" in params:
            self.final_norm = params["final_norm"]
        if not spec.tie_embeddings:
            self.head = params["head"]

    def hidden(
        self, tokens: jax.Array, positions: jax.Array | None = None, subtree_end: jax.Array | None = None
    ) -> jax.Array:
        """See LanguageModel."""
        if positions is None:
            positions = jnp.arange(tokens.shape[1])[None]
        rotation = arithmetic.rope_rotation(self.spec, positions)

        def step(x: jax.Array, inputs: tuple[Layer, jax.Array | None]) -> tuple[jax.Array, None]:
            layer, window = inputs

            def mix(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
                return attend(query, key, value, subtree_end, self.compute.attention, positions, window)

            return self._layer(x, self._whole(layer), rotation, mix), None

        step = arithmetic.rematerialised(step, self.compute.remat)
        windows = jnp.array([window or NO_WINDOW for window in self.spec.windows]) if self.spec.windows else None
        x, _ = lax.scan(step, self._embed(tokens), (self._stacked(), windows), unroll=self.compute.unroll)
        return self._final(x)

    def unstacked(self) -> Layers:
        """See LanguageModel."""
        axes = self.spec.layer_axes(self.lora)

        def prepared(name: str, weight: jax.Array) -> jax.Array:
            """Norms and quantised weights stay as they are."""
            if not isinstance(weight, jax.Array):
                return weight
            part = constrain(weight, axes[name])
            return part if name.endswith("_norm") else part.astype(self.compute.dtype)

        return tuple(
            {name: prepared(name, jax.tree.map(lambda w: w[i], weight)) for name, weight in self._stacked().items()}  # noqa: B023
            for i in range(self.spec.layers)
        )

    def cached(self, tokens: jax.Array, positions: jax.Array, layers: Layers, attention: CachedAttention) -> jax.Array:
        """See LanguageModel."""
        rotation = arithmetic.rope_rotation(self.spec, positions)
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

    def _embed(self, tokens: jax.Array) -> jax.Array:
        with jax.named_scope("embed"):
            table = constrain(self.embedding[...].astype(self.compute.dtype), ("vocab", "width"))
            table = constrain(table, ("vocab", "features"))
            x = constrain(table[tokens], ("batch", "length", "features"))
            return constrain(x, ("batch", "residual_length", "features"))

    def _whole(self, layer: Layer) -> Layer:
        """A layer for many tokens: what is split over devices that have other rows, brought together.

        Not where the backward pass recomputes nothing: it would keep every layer whole. There XLA finds its own way.
        """
        if not gathers() or self.compute.remat == "none":
            return layer
        axes = self.spec.layer_axes(self.lora)
        return {
            name: w if name.endswith("_norm") else gathered(dense(w).astype(self.compute.dtype), axes[name])
            for name, w in layer.items()
        }

    def _stacked(self) -> Layer:
        return {name: param[...] for name, param in self.layers.items()} | self.adapter_values()

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

        def norm(name: str, at: str, x: jax.Array) -> jax.Array:
            return self._norm(x, weight.get(name)) if spec.norm_place == at else x

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
            mixed = mix(arithmetic.rotate(query, rotation), arithmetic.rotate(key, rotation), value)
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
                h = arithmetic.gated(gate, up)
                return biased("down", adapted("down", h, product(h, weight["down"])))

            out = down(gate, up)
            return constrain(x + norm("feed_forward_norm", "output", out), features)

    def _norm(self, x: jax.Array, scale: jax.Array | None) -> jax.Array:
        return layer_norm(x, self.spec.norm_eps) if scale is None else rms_norm(x, scale, self.spec.norm_eps)

    def _final(self, x: jax.Array) -> jax.Array:
        return self._norm(x, None if self.spec.norm == "layer" else self.final_norm[...])

    # ------------------------------------------------------------ adapters

    def split(self) -> ModelParts:
        """See LanguageModel."""
        if self.lora is None:
            return super().split()
        model: LanguageModel = self
        graph, *parts = nnx.split(model, Adapter, nnx.Param)
        trained, weights = map(nnx.to_pure_dict, parts)
        return ModelParts(graph, trained, (weights,))

    def adapted(self, lora: LoRASettings, seed: int, dtype: str = "float32", mesh: Mesh | None = None) -> Decoder:
        """See LanguageModel."""
        return self.with_adapters(lora, draw(self.spec.adapters(lora), seed, dtype, mesh))

    def with_adapters(self, lora: LoRASettings, values: Mapping[str, jax.Array]) -> Decoder:
        """See LanguageModel."""
        if lora.base != "as_loaded":
            for name in lora.targets:
                self.layers[name] = nnx.Param(quantised(self.layers[name][...], lora.base))
        self.lora = lora
        self.adapters = nnx.Dict({name: Adapter(value) for name, value in values.items()})
        return self

    def adapter_values(self) -> dict[str, jax.Array]:
        """See LanguageModel."""
        return {} if self.lora is None else {name: value[...] for name, value in self.adapters.items()}

    def merged(self) -> Decoder:
        """See LanguageModel."""
        lora = self.lora
        if lora is None:
            return self
        values, adapters = named_parameters(self), self.adapter_values()
        for name, param in self.layers.items():
            weight = dense(param[...])
            if name in lora.targets:
                weight = added(weight, adapters[f"{name}_a"], adapters[f"{name}_b"], lora.alpha / lora.rank)
            values[f"layers.{name}"] = weight
        return self.spec.assemble(nested(values), self.compute)

    def stored_tensors(self, dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
        """See LanguageModel."""
        return tensors.stored_tensors(self.spec, named_parameters(self), dtype)


def _on_mesh(
    shapes: Tree[jax.ShapeDtypeStruct], described: Mapping[str, Weight], mesh: Mesh
) -> Tree[jax.ShapeDtypeStruct]:
    """Shapes with their shardings; the arrays of a quantised weight are split as it would be."""

    def placed(name: str, value: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=sharding(mesh, described[name].axes, leaf.shape)
            ),
            value,
        )

    return nested({name: placed(name, value) for name, value in flat(shapes).items()})
