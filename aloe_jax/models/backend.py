"""What training, sampling and export ask of a model, and the two implementations: our decoder, and MaxText's models.

A model is a `Policy`, what it is of a `Spec`; either is one of ours (decoder.py, spec.py) or one of MaxText's
(maxtext/). This module chooses between them; what only one of the two can do stands with its weights, spec or card.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from aloe_jax.models.decoder import Compute, Decoder
from aloe_jax.models.decoder import assemble as assemble_decoder
from aloe_jax.models.settings import ModelSettings
from aloe_jax.models.spec import ModelSpec
from aloe_jax.models.weights import nested, weight_sharding, weights
from aloe_jax.storage.copies import WEIGHTS, local_copy


class Spec(Protocol):
    """What a model is: sizes and tokens. Hashable, and as text the same for the same model."""

    @property
    def vocab(self) -> int:
        """V."""

    @property
    def layers(self) -> int:
        """L: attentions that follow each other."""

    @property
    def width(self) -> int:
        """D."""

    @property
    def query_heads(self) -> int:
        """N."""

    @property
    def kv_heads(self) -> int:
        """K."""

    @property
    def head_size(self) -> int:
        """H."""

    @property
    def windows(self) -> tuple[int, ...]:
        """Of every layer how many tokens of its path a token sees; 0, or no entry: all."""

    @property
    def max_length(self) -> int:
        """Tokens of the longest path."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """What ends a reply."""

    def parameter_count(self) -> int:
        """Number of trained values."""

    def forward_flops(self, tokens: int, attended_pairs: int) -> int:
        """See ModelSpec."""

    def to_huggingface(self) -> dict[str, Any]:
        """The content of a config.json."""


class Policy(Protocol):
    """A model with its weights as nnx.Param, which `nnx.split(model, nnx.Param)` takes apart completely.

    `hidden` gives states after the final norm; tokens follow by `unembedding` [D,V]. With a cap c, logits (or
    scores of attention) x are c·tanh(x / c). `unstacked` and `cached` are what a loop over tokens runs on; see Decoder.
    """

    spec: Any
    compute: Compute

    @property
    def final_cap(self) -> float | None:
        """Of logits; None: not capped."""

    @property
    def attention_cap(self) -> float | None:
        """Of scores of attention; None: not capped."""

    def hidden(
        self, tokens: jax.Array, positions: jax.Array | None = None, subtree_end: jax.Array | None = None
    ) -> jax.Array:
        """int [B,T] -> [B,T,D]."""

    def unembedding(self) -> jax.Array:
        """[D,V]."""

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[...,D] -> float32 [...,V]."""

    def unstacked(self) -> Any:
        """The weights of every layer apart."""

    def cached(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        layers: Any,
        attention: Callable[[int, jax.Array, jax.Array, jax.Array], jax.Array],
    ) -> jax.Array:
        """As `hidden`, with `attention` of the caller's: int [B,T] -> [B,T,D]."""


MAXTEXT = "maxtext"  # of `backend` in spec.json


def from_scratch(model: ModelSettings, vocab: int | None, **tokens: Any) -> Any:
    """The spec of a new model, for a tokenizer of `vocab` tokens whose special ids are `tokens`.

    One of MaxText's by name has a vocabulary, so `vocab` may be None for it.
    """
    if model.backend == MAXTEXT:
        from aloe_jax.models.maxtext.spec import named

        return named(model, vocab, **tokens)
    assert vocab is not None
    return ModelSpec.from_architecture(model.architecture, vocab, **tokens)


def to_json(spec: Any) -> dict[str, Any]:
    """A spec as spec.json has it."""
    values = dataclasses.asdict(spec)
    return values if isinstance(spec, ModelSpec) else {"backend": MAXTEXT, **values}


def from_json(values: Mapping[str, Any]) -> Any:
    """The spec in a spec.json. Raises TypeError, or AloeError, where it is none."""
    if values.get("backend") == MAXTEXT:
        from aloe_jax.models.maxtext.spec import MaxTextSpec

        return MaxTextSpec(**{key: value for key, value in values.items() if key != "backend"})
    return ModelSpec(**values)


def assemble(spec: Any, parameters: dict[str, Any], compute: Compute | None = None) -> Any:
    """The model of a spec around parameters that exist, as a nested dict."""
    if isinstance(spec, ModelSpec):
        return assemble_decoder(spec, parameters, compute)
    from aloe_jax.models.maxtext.decoder import assemble as assemble_maxtext

    return assemble_maxtext(spec, parameters, compute)


def new_model(spec: Any, seed: int, dtype: str, mesh: Mesh, compute: Compute) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """Graph and new parameters, drawn from the seed where they are to lie on the mesh."""
    places = nested({name: weight_sharding(weight, mesh) for name, weight in weights(spec).items()})

    def parameters() -> dict[str, Any]:
        if isinstance(spec, ModelSpec):
            return nnx.to_pure_dict(nnx.state(Decoder(spec, rngs=nnx.Rngs(seed), dtype=dtype), nnx.Param))
        from aloe_jax.models.maxtext.decoder import new_parameters

        return nested(new_parameters(spec, seed, dtype, mesh))

    # MaxText's initialisers take a CPU ten times as long to compile well as to compile.
    quick = not isinstance(spec, ModelSpec) and mesh.devices.flat[0].platform == "cpu"
    options = {"xla_backend_optimization_level": 0} if quick else None
    made = jax.jit(parameters, out_shardings=places, compiler_options=options)()
    graph, _ = nnx.split(assemble(spec, made, compute), nnx.Param)
    return graph, made


def abstract_model(spec: Any, dtype: str, mesh: Any, compute: Compute) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """`new_model` without values: the graph, and parameters as jax.ShapeDtypeStruct with their places on the mesh."""
    shapes = nested(
        {
            name: jax.ShapeDtypeStruct(weight.shape, jnp.dtype(dtype), sharding=weight_sharding(weight, mesh))
            for name, weight in weights(spec).items()
        }
    )
    graph, _ = nnx.split(assemble(spec, shapes, compute), nnx.Param)
    return graph, shapes


def stacked(spec: Any) -> dict[str, int]:
    """Of every weight that belongs to layers, to how many: those that a decoder computes one after the other."""
    described = weights(spec)
    if isinstance(spec, ModelSpec):
        return {name: spec.layers for name in described if name.startswith("layers.")}
    from aloe_jax.models.maxtext.layers import places

    found = places({name: weight.shape for name, weight in described.items()}, spec.resolved.param_scan_axis)
    return {name: len(place.numbers) for name, place in found.items() if place.numbers is not None}


def unstacked_axes(spec: Any) -> Any:
    """The logical axes of what a model's `unstacked` gives, in the same form."""
    if isinstance(spec, ModelSpec):
        one = {name.removeprefix("layers."): weight.axes[1:] for name, weight in weights(spec).items() if "." in name}
        return (one,) * spec.layers
    apart = dataclasses.replace(spec, settings={**dict(spec.settings), "scan_layers": False})
    return {name: weight.axes for name, weight in weights(apart).items()}


def read_huggingface_spec(path: str | Path, model: ModelSettings) -> Any:
    """The spec of a Hugging Face directory, of the model that `model.backend` makes of it."""
    path = local_copy(path, leave=WEIGHTS)
    if model.backend == MAXTEXT:
        from aloe_jax.models.maxtext.huggingface import read_spec

        return read_spec(path, model.overrides)
    from aloe_jax.models.huggingface import read_spec as read_own

    return read_own(path)


__all__ = [
    "Policy", "Spec", "abstract_model", "assemble", "from_json", "from_scratch", "new_model", "read_huggingface_spec",
    "stacked", "to_json", "unstacked_axes",
]  # fmt: skip
