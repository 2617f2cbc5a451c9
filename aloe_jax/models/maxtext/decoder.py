"""A model of MaxText's, and the spec that builds it: the second implementation of models/spec.py.

Its dense attention takes the rows of token trees, since internals.py gives it their mask. Its flash kernels know
segments of a row alone: they are for rows packed as paths. On a GPU that is its Pallas kernel, the one of them that
reads segments without further packages; the one through cuDNN reads none, so paths would see each other.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from aloe_jax.data.settings import Packing
from aloe_jax.data.tokenizer_files import TransformersTokenizer
from aloe_jax.errors import AloeError
from aloe_jax.models import generation
from aloe_jax.models.maxtext import checkpoints, internals, tensors
from aloe_jax.models.maxtext.config import family_of, family_to_write, read_config, write_config
from aloe_jax.models.maxtext.layers import unstacked
from aloe_jax.models.maxtext.shape import MaxTextShape, Setting, frozen
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

ATTENTION: dict[str, str] = {"auto": "dot_product", "dense": "dot_product", "tpu": "flash", "gpu": "flash"}
BLOCKS = ("sa_block_q", "sa_block_kv", "sa_block_q_dkv", "sa_block_kv_dkv")  # tokens that the TPU kernel takes at once
REMAT = {"none": "none", "full": "full", "dots": "minimal"}


class MaxTextSpec(MaxTextShape, ModelSpec):
    """A model of MaxText's; see ModelSpec."""

    backend: ClassVar[Backend] = "maxtext"
    feed_forward_arrays: ClassVar = 6
    to_huggingface = write_config
    read_weights = tensors.read_weights
    stored_shapes = tensors.stored_shapes

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

    @property
    def title(self) -> str:
        """See ModelSpec."""
        return family_to_write(self).title

    def why_not(self, method: Attention, packing: Packing, length: int, platform: str) -> str | None:
        """See ModelSpec."""
        why = None
        if method == "chunked":
            why = "model.attention: MaxText has no chunked attention; set auto or dense"
        elif method != "dense" and packing == "trees":
            why = (
                f"model.attention: MaxText's {method} kernel knows segments of a row but no trees; set data.packing to "
                "paths, or model.attention to dense"
            )
        elif method not in ("dense", platform):
            why = f"model.attention: {method} is a kernel for another platform than {platform}; set auto or dense"
        elif method == "tpu":
            sizes = [int(getattr(self.resolved, prefix + name)) for prefix in ("", "local_") for name in BLOCKS]
            block = math.lcm(*(min(size, length) for size in sizes))
            if length % block or length % 128:
                why = (
                    f"data.row_length: MaxText's TPU kernel takes {max(sizes)} tokens at once, and {length} is no "
                    f"multiple of that; give a multiple of {max(sizes)}, or set model.attention to dense"
                )
        elif method == "gpu" and (what := _left_out(self)) is not None:
            why = (
                f"model.attention: {self.name} has {what}, which MaxText's GPU kernel leaves out; set model.attention "
                "to dense"
            )
        return why

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

    def load_checkpoint(
        self, path: Path, dtype: str = "float32", mesh: Mesh | None = None, compute: Compute | None = None
    ) -> MaxTextDecoder:
        """See ModelSpec."""
        return self.assemble(nested(checkpoints.read_weights(path, self, dtype, mesh)), compute)


class MaxTextDecoder(LanguageModel):
    """Holds the weights by MaxText's names, and nothing else of it; its modules are put together while tracing.

    With the attention `tpu` or `gpu` subtree_end numbers the segments of a row, which must be paths: see the module.
    """

    spec: MaxTextSpec

    def __init__(self, spec: MaxTextSpec, parameters: Parameters, compute: Compute, mesh: Mesh) -> None:
        if compute.attention not in ATTENTION:
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

    def cached(self, tokens: jax.Array, positions: jax.Array, layers: Layers, attention: CachedAttention) -> jax.Array:
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
            "attention": ATTENTION[self.compute.attention],
        }
        if self.mesh.devices.flat[0].platform != "tpu":
            compute |= {"megablox": False}  # a TPU kernel, which elsewhere is interpreted, hundreds of times slower
        return self.spec.skeleton(self.mesh, compute, unrolled)

    def stored_tensors(self, dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
        """See LanguageModel."""
        return tensors.stored_tensors(self.spec, named_parameters(self), dtype)

    def save_checkpoint(
        self, path: Path, dtype: str, tokenizer: TransformersTokenizer | None = None, card: str = ""
    ) -> None:
        """See LanguageModel."""
        checkpoints.save(self.spec, named_parameters(self), path, dtype, tokenizer, card)


def _mesh(parameters: Parameters) -> Mesh:
    for leaf in jax.tree.leaves(parameters):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
            return sharding.mesh
    return internals.single_device_mesh()


def _dict(values: Parameters) -> nnx.Dict[object]:
    made = {name: _dict(value) if isinstance(value, dict) else nnx.Param(value) for name, value in values.items()}
    return nnx.Dict(**made)


def _left_out(shape: MaxTextShape) -> str | None:
    """What of a model's attention MaxText's GPU kernel does not compute."""
    resolved = shape.resolved
    found = {
        "sliding windows": any(shape.windows),
        "capped scores of attention": bool(resolved.attn_logits_soft_cap),
        "attention sinks": bool(resolved.attention_sink) or resolved.decoder_block.name == "GPT_OSS",
        "keys and values of different sizes (MLA)": any(kind == "MLA" for kind, _ in shape.attention),
    }
    return next((what for what, used in found.items() if used), None)
