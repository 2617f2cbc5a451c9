"""A model of MaxText's, and the spec that builds it: the second implementation of models/spec.py."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from aloe_jax.data.packing import Packing
from aloe_jax.errors import AloeError
from aloe_jax.models import generation
from aloe_jax.models.maxtext import checkpoints, internals
from aloe_jax.models.maxtext.config import family_of, family_to_write, read_config, write_config
from aloe_jax.models.maxtext.kernels import NAMES, why_not
from aloe_jax.models.maxtext.layers import unstacked
from aloe_jax.models.maxtext.shape import MaxTextShape, Setting, frozen
from aloe_jax.models.maxtext.tensors import read_weights, stored_shapes, stored_tensors
from aloe_jax.models.settings import Attention, ModelSettings
from aloe_jax.models.spec import (
    JSON,
    Backend,
    CachedAttention,
    Compute,
    LanguageModel,
    Layers,
    ModelSpec,
    Parameters,
    TokenizerIds,
    named_parameters,
)
from aloe_jax.models.tensor_files import read_json
from aloe_jax.models.values import Values
from aloe_jax.models.weights import nested
from aloe_jax.parallel.mesh import constrain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase  # slow to import

REMAT = {"none": "none", "full": "full", "dots": "minimal"}


class MaxTextSpec(MaxTextShape, ModelSpec):
    """A model of MaxText's; see ModelSpec."""

    backend: ClassVar[Backend] = "maxtext"
    feed_forward_arrays: ClassVar = 6

    @classmethod
    def from_scratch(cls, model: ModelSettings, ids: TokenizerIds) -> Self:
        """`model.name` with `model.overrides`; the vocabulary is the tokenizer's where neither gives one."""
        overrides = dict(model.overrides)
        if model.name == "default" and ids.vocab is not None:
            overrides.setdefault("vocab_size", ids.vocab)
        spec = cls(
            model.name or "default",
            frozen(overrides),
            model.architecture.max_length,
            bos_id=ids.bos_id,
            eos_ids=ids.eos_ids,
            pad_id=ids.pad_id,
        )
        return dataclasses.replace(spec, family=family_of(spec))

    @classmethod
    def from_json(cls, values: Values) -> Self:
        """See ModelSpec."""
        return cls(**{key: value for key, value in values.items() if key != "backend"})

    @classmethod
    def from_huggingface(
        cls, values: Values, where: str = "config.json", overrides: Mapping[str, object] | None = None
    ) -> Self:
        """See ModelSpec."""
        return read_config(cls, values, where, overrides or {})

    @classmethod
    def read_huggingface(cls, path: Path, overrides: Mapping[str, object] | None = None) -> Self:
        """See ModelSpec."""
        spec = cls.from_huggingface(read_json(path / "config.json"), str(path / "config.json"), overrides)
        return generation.with_settings(spec, generation.read(path))

    def to_json(self) -> dict[str, JSON]:
        """See ModelSpec."""
        return {"backend": self.backend, **dataclasses.asdict(self)}

    def to_huggingface(self) -> dict[str, JSON]:
        """See ModelSpec."""
        return write_config(self)

    @property
    def title(self) -> str:
        """See ModelSpec."""
        return family_to_write(self).title

    def why_not(self, method: Attention, packing: Packing, length: int, platform: str) -> str | None:
        """See ModelSpec."""
        return why_not(self, method, packing, length, platform)

    def assemble(self, parameters: Parameters, compute: Compute | None = None) -> MaxTextDecoder:
        """See ModelSpec; the model is on the mesh of its parameters."""
        return MaxTextDecoder(self, parameters, compute or Compute(), _mesh(parameters))

    def build(self, seed: int, dtype: str, mesh: Mesh, compute: Compute | None = None) -> MaxTextDecoder:
        """See ModelSpec: by MaxText's own initialisers."""

        def drawn() -> Parameters:
            values = internals.initial(self.name, self.computed(), mesh, seed)
            return nested({name: value.astype(dtype) for name, value in values.items()})

        # MaxText's initialisers take a CPU ten times as long to compile well as to compile.
        quick = {"xla_backend_optimization_level": 0} if mesh.devices.flat[0].platform == "cpu" else None
        return self.assemble(jax.jit(drawn, out_shardings=self.shardings(mesh), compiler_options=quick)(), compute)

    def read_weights(self, path: Path, dtype: str, mesh: Mesh | None) -> dict[str, jax.Array]:
        """See ModelSpec."""
        return read_weights(path, self, dtype, mesh)

    def load_checkpoint(
        self, path: Path, dtype: str = "float32", mesh: Mesh | None = None, compute: Compute | None = None
    ) -> MaxTextDecoder:
        """See ModelSpec."""
        return self.assemble(nested(checkpoints.read_weights(path, self, dtype, mesh)), compute)

    def stored_shapes(self) -> dict[str, tuple[int, ...]]:
        """See ModelSpec."""
        return stored_shapes(self)


class MaxTextDecoder(LanguageModel):
    """Holds the weights by MaxText's names, and nothing else of it; its modules are put together while tracing.

    With the attention `tpu` or `gpu` subtree_end numbers the segments of a row, which must be paths: see kernels.py.
    """

    spec: MaxTextSpec

    def __init__(self, spec: MaxTextSpec, parameters: Parameters, compute: Compute, mesh: Mesh) -> None:
        if compute.attention not in NAMES:
            raise AloeError(f"model.attention: MaxText has no {compute.attention} attention; set auto or dense")
        self.spec, self.compute, self.mesh = spec, compute, mesh
        self.lora = None
        for name, part in _dict(parameters).items():
            setattr(self, name, part)

    def hidden(
        self, tokens: jax.Array, positions: jax.Array | None = None, subtree_end: jax.Array | None = None
    ) -> jax.Array:
        """See LanguageModel."""
        return self.penalised_hidden(tokens, positions, subtree_end)[0]

    def penalised_hidden(
        self, tokens: jax.Array, positions: jax.Array | None = None, subtree_end: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """See LanguageModel: the routers' loss, the mean over layers, where load_balance_loss_weight is set.

        It counts every token of the rows, padding too, as MaxText's own training does.
        """
        if positions is None:
            positions = jnp.arange(tokens.shape[1])[None]
        positions = jnp.broadcast_to(positions, tokens.shape)
        states, left = internals.states(self._skeleton(), named_parameters(self), tokens, positions, subtree_end)
        losses = [jnp.ravel(x) for name, value in left.items() if "moe_lb_loss" in name for x in jax.tree.leaves(value)]
        return states, jnp.concatenate(losses).mean().astype(jnp.float32) if losses else None

    @property
    def final_cap(self) -> float | None:
        """See LanguageModel."""
        return self.spec.final_cap

    @property
    def attention_cap(self) -> float | None:
        """See LanguageModel."""
        return float(self.spec.resolved.attn_logits_soft_cap or 0.0) or None

    def unembedding(self) -> jax.Array:
        """See LanguageModel."""
        config = self.spec.resolved
        weights = named_parameters(self)
        if self.spec.tie_embeddings:
            weight = weights["token_embedder.embedding"].T
            if config.normalize_embedding_logits:  # the embedding is stored times √D
                weight = weight / jnp.sqrt(jnp.float32(self.spec.width)).astype(weight.dtype)
        else:
            weight = weights["decoder.logits_dense.kernel"]
        weight = constrain(weight.astype(self.compute.dtype), ("width", "vocab"))
        return constrain(weight, ("features", "vocab"))

    def unstacked(self) -> Layers:
        """See LanguageModel: the weights of all layers in one dict.

        Raises AloeError for attention that a cache of keys and values does not do.
        """
        if (what := self.spec.uncached()) is not None:
            raise AloeError(
                f"{self.spec.name}: has {what}, which the cache of replies does not do; export the model and serve it "
                "with another program"
            )
        made = self._skeleton(unrolled=True)
        weights = unstacked(named_parameters(self), made.shapes, self.spec.resolved.param_scan_axis)
        return (
            {
                name: weight if weight.ndim < 2 else weight.astype(self.compute.dtype)
                for name, weight in weights.items()
            },
        )

    def cached(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        layers: Layers,
        attention: CachedAttention,
    ) -> jax.Array:
        """See LanguageModel."""
        root = self.spec.head_size**0.5  # queries come divided by it, and are divided there

        def given(index: int, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
            return attention(index, query * root, key, value)

        def each() -> Iterator[internals.Attention]:
            for index in range(len(self.spec.attention)):
                yield functools.partial(given, index)

        states, _ = internals.states(self._skeleton(unrolled=True), layers[0], tokens, positions, None, each())
        return states

    def _skeleton(self, unrolled: bool = False) -> internals.Skeleton:
        compute: dict[str, Setting] = {
            "dtype": self.compute.dtype,
            "remat_policy": REMAT[self.compute.remat],
            "attention": NAMES[self.compute.attention],
        }
        if self.mesh.devices.flat[0].platform != "tpu":
            compute |= {"megablox": False}  # a TPU kernel, which elsewhere is interpreted, hundreds of times slower
        return self.spec.skeleton(self.mesh, compute, unrolled)

    def stored_tensors(self, dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
        """See LanguageModel."""
        return stored_tensors(self.spec, named_parameters(self), dtype)

    def save_checkpoint(
        self, path: Path, dtype: str, tokenizer: PreTrainedTokenizerBase | None = None, card: str = ""
    ) -> None:
        """See LanguageModel."""
        checkpoints.save(self.spec, named_parameters(self), path, dtype, tokenizer, card)


def _mesh(parameters: Parameters) -> Mesh:
    for leaf in jax.tree.leaves(parameters):
        place = getattr(leaf, "sharding", None)
        if isinstance(place, NamedSharding) and isinstance(place.mesh, Mesh):
            return place.mesh
    return internals.single_device_mesh()


def _dict(values: Parameters) -> nnx.Dict[object]:
    made = {name: _dict(value) if isinstance(value, dict) else nnx.Param(value) for name, value in values.items()}
    return nnx.Dict(**made)
