"""The interface of a model: what it is (`ModelSpec`), and the model itself with its weights (`LanguageModel`).

There are two implementations: our decoder (native/) and MaxText's models (maxtext/). Everything else asks a model
through these two classes and never which of the two it is. Shapes: B batch, T tokens, D model, N/K query and kv heads,
H head size, V vocabulary, L layers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, Sharding

from aloe_jax.data.packing import Packing
from aloe_jax.data.tokenizer_files import TransformersTokenizer, unused_tokens
from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from aloe_jax.models.attention import preferred
from aloe_jax.models.settings import Attention, LoRASettings, ModelSettings
from aloe_jax.models.weights import Tree, Weight, nested, weight_sharding

type Parameters = Tree[jax.Array] | Tree[jax.ShapeDtypeStruct]  # as `nnx.to_pure_dict` has them; shapes in a plan
# The weights of single layers, as a loop over tokens reads them. One quantised by qwix is its QArray instead.
Layer = dict[str, jax.Array]
Layers = tuple[Layer, ...]
Backend = Literal["native", "maxtext"]  # as of model.backend
Axes = tuple[str | None, ...]  # logical, one a dimension: see parallel/mesh.py
# (layer, queries [B,T,N,H], keys, values [B,T,K,H]) -> [B,T,N,H]
CachedAttention = Callable[[int, jax.Array, jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class Compute:
    """How a model is computed; none of it changes what is computed, save rounding."""

    attention: Attention = "auto"
    remat: Literal["none", "full", "dots"] = "none"  # what the backward pass recomputes of a layer
    unroll: int = 1  # layers a scan step
    dtype: str = "float32"  # of activations and of weights in products; norms and softmax are float32


@dataclass(frozen=True)
class TokenizerIds:
    """What a model from scratch takes from its tokenizer."""

    vocab: int | None = None  # V; None: not known yet
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()  # what ends a reply
    pad_id: int | None = None


class ModelParts(NamedTuple):
    """A model as JAX's transformations take it: `nnx.merge(graph, trained, *frozen)` is the model again."""

    graph: nnx.GraphDef[LanguageModel]
    trained: Parameters  # all weights, or those of the adapters
    frozen: tuple[Parameters, ...] = ()  # (), or all weights beside adapters


class ModelSpec(ABC):
    """What a model is, without its weights. Hashable; two that are equal compute the same from the same weights."""

    backend: ClassVar[Backend]
    feed_forward_arrays: ClassVar[int]  # of [B,T,F], that a layer keeps for its backward pass

    # ------------------------------------------------------------ sizes and tokens

    @property
    @abstractmethod
    def vocab(self) -> int:
        """V."""

    @property
    @abstractmethod
    def layers(self) -> int:
        """L: how many attentions follow each other."""

    @property
    @abstractmethod
    def width(self) -> int:
        """D."""

    @property
    @abstractmethod
    def query_heads(self) -> int:
        """N."""

    @property
    @abstractmethod
    def kv_heads(self) -> int:
        """K."""

    @property
    @abstractmethod
    def head_size(self) -> int:
        """H."""

    @property
    @abstractmethod
    def feed_forward(self) -> int:
        """F; with experts, of those that a token goes through."""

    @property
    @abstractmethod
    def windows(self) -> tuple[int, ...]:
        """Of every layer, how many tokens of its path a token sees; 0, or no entry: all."""

    @property
    @abstractmethod
    def max_length(self) -> int:
        """Tokens of the longest path that the model was trained for."""

    @property
    @abstractmethod
    def tie_embeddings(self) -> bool:
        """Whether the head is the embedding."""

    @property
    @abstractmethod
    def family(self) -> str | None:
        """`model_type` in a config.json; None where the model has no Hugging Face form."""

    @property
    @abstractmethod
    def bos_id(self) -> int | None:
        """The token that begins a text."""

    @property
    @abstractmethod
    def eos_ids(self) -> tuple[int, ...]:
        """The tokens that end a reply."""

    @property
    @abstractmethod
    def pad_id(self) -> int | None:
        """The token of padding."""

    # ------------------------------------------------------------ where it comes from, and how it is written

    @classmethod
    @abstractmethod
    def from_scratch(cls, model: ModelSettings, ids: TokenizerIds) -> Self:
        """The spec of a new model by its settings, for a tokenizer with these ids."""

    @classmethod
    @abstractmethod
    def from_json(cls, values: Mapping[str, JSON]) -> Self:
        """The spec in a spec.json. Raises TypeError, or AloeError, where it is none."""

    @classmethod
    @abstractmethod
    def from_huggingface(
        cls, values: Mapping[str, JSON], where: str = "config.json", overrides: Mapping[str, object] | None = None
    ) -> Self:
        """The spec in the content of a config.json, of transformers 4 or 5, with `model.overrides` over it.

        Raises AloeError naming `where` and the key when the family, or its arithmetic, is not supported.
        """

    @classmethod
    @abstractmethod
    def read_huggingface(cls, path: Path, overrides: Mapping[str, object] | None = None) -> Self:
        """The spec of a local Hugging Face directory: config.json with the token ids of generation_config.json."""

    @abstractmethod
    def to_json(self) -> dict[str, JSON]:
        """The content of a spec.json."""

    @abstractmethod
    def to_huggingface(self) -> dict[str, JSON]:
        """The content of a config.json. Raises AloeError where the model has no Hugging Face form."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What the family is called on a model card. Raises AloeError where the model has no Hugging Face form."""

    def with_ids(self, eos_ids: tuple[int, ...], pad_id: int | None) -> Self:
        """The spec with other special tokens."""
        return self.from_json({**self.to_json(), "eos_ids": list(eos_ids), "pad_id": pad_id})

    def ending(self, ids: Iterable[int]) -> Self:
        """The spec whose replies end at these ids, too; those beyond its vocabulary are left out."""
        ends = tuple(dict.fromkeys((*self.eos_ids, *(token for token in ids if 0 <= token < self.vocab))))
        return self if ends == self.eos_ids else self.with_ids(ends, self.pad_id)

    # ------------------------------------------------------------ weights

    @abstractmethod
    def weights(self) -> dict[str, Weight]:
        """All weights by their dotted name."""

    @abstractmethod
    def stacked(self) -> dict[str, int]:
        """Of every weight that belongs to layers, to how many: those that are computed one after the other."""

    @abstractmethod
    def unstacked_axes(self, lora: LoRASettings | None = None) -> tuple[dict[str, Axes], ...]:
        """The logical axes of `LanguageModel.unstacked`, in the same form, of a model with adapters where `lora` is."""

    def adapters(self, lora: LoRASettings) -> dict[str, Weight]:
        """The weights of LoRA adapters by name. Raises AloeError where the model takes none."""
        raise AloeError(ADAPTED)

    def trained(self, lora: LoRASettings | None) -> dict[str, Weight]:
        """What training changes, by dotted name: all weights, or those of adapters."""
        if lora is None:
            return self.weights()
        return {f"adapters.{name}": weight for name, weight in self.adapters(lora).items()}

    def shardings(self, mesh: Mesh) -> Tree[Sharding]:
        """Of every weight on a mesh, nested as the parameters are."""
        return nested({name: weight_sharding(weight, mesh) for name, weight in self.weights().items()})

    def parameter_count(self) -> int:
        """Number of values in all weights; tied embeddings count once."""
        return sum(math.prod(weight.shape) for weight in self.weights().values())

    def active_count(self) -> int:
        """Number of those that a token goes through: of experts the chosen ones."""
        return self.parameter_count()

    # ------------------------------------------------------------ what it costs

    @abstractmethod
    def active_matrices(self) -> float:
        """Values of the layers' matrices that a token goes through: of experts the chosen ones."""

    def computed_matrices(self) -> float:
        """Values of the layers' matrices that a token is multiplied by on the chips."""
        return self.active_matrices()

    def score_values(self) -> float:
        """Values that meet in a score of attention or are mixed by it, all heads and layers: half of both."""
        return self.layers * self.query_heads * self.head_size

    def forward_flops(self, tokens: int, attended_pairs: int) -> int:
        """Floating-point operations of one forward pass over `tokens` tokens, the head included.

        `attended_pairs` counts the (query, key) pairs that the mask lets through, over all rows, windows aside: a
        layer with a window counts at most that many keys a token. A multiply-add counts as 2; norms, biases, RoPE
        and softmax are left out. A training step is three times this.
        """
        windows = self.windows or (0,) * self.layers
        pairs = sum(min(attended_pairs, tokens * window) if window else attended_pairs for window in windows)
        matrices = self.active_matrices() + self.vocab * self.width
        return int(2 * tokens * matrices + 4 * self.query_heads * self.head_size * pairs)

    # ------------------------------------------------------------ what it can compute

    def why_not(self, method: Attention, packing: Packing, length: int, platform: str) -> str | None:
        """Why an attention method cannot compute rows of `length` tokens on a platform; None where it can."""
        return None

    def attention_method(self, asked: Attention, packing: Packing, length: int, platform: str) -> Attention:
        """The method that `model.attention` stands for: `auto` is resolved by this function alone.

        `packing` is the layout of rows of `length` tokens, `platform` that of the devices (tpu, gpu, cpu). Raises
        AloeError where a method that was asked for cannot compute such rows.
        """
        method = preferred(length, platform) if asked == "auto" else asked
        why = self.why_not(method, packing, length, platform)
        if why is None:
            return method
        if asked == "auto":
            return "dense"
        raise AloeError(why)

    def uncached(self) -> str | None:
        """What of its attention a cache of keys and values does not do, so that no reply can be drawn; else None."""
        return None

    # ------------------------------------------------------------ building it

    @abstractmethod
    def assemble(self, parameters: Parameters, compute: Compute | None = None) -> LanguageModel:
        """The model around parameters that exist."""

    @abstractmethod
    def build(self, seed: int, dtype: str, mesh: Mesh, compute: Compute | None = None) -> LanguageModel:
        """The model with new parameters, drawn from the seed, each device its own part."""

    def abstract(self, dtype: str, mesh: Mesh, compute: Compute, lora: LoRASettings | None = None) -> ModelParts:
        """The model without values: parameters are jax.ShapeDtypeStruct with their shardings on the mesh."""
        if lora is not None:
            raise AloeError(ADAPTED)
        shapes = nested(
            {
                name: jax.ShapeDtypeStruct(weight.shape, jnp.dtype(dtype), sharding=weight_sharding(weight, mesh))
                for name, weight in self.weights().items()
            }
        )
        graph, _ = nnx.split(self.assemble(shapes, compute), nnx.Param)
        return ModelParts(graph, shapes)

    # ------------------------------------------------------------ its weights in Hugging Face directories

    @abstractmethod
    def read_weights(self, path: Path, dtype: str, mesh: Mesh | None) -> dict[str, jax.Array]:
        """The weights in a local Hugging Face directory by dotted name, in `dtype`, every device reading its own part.

        Raises AloeError naming the file, the key and what was expected: a file missing, cut short or a pickle, a tensor
        missing, left over, of another shape or type, with NaN or infinity in it.
        """

    def load_huggingface(
        self, path: Path, dtype: str = "float32", mesh: Mesh | None = None, compute: Compute | None = None
    ) -> LanguageModel:
        """The model in a local Hugging Face directory; see `read_weights`."""
        return self.assemble(nested(self.read_weights(path, dtype, mesh)), compute)

    def load_checkpoint(
        self, path: Path, dtype: str = "float32", mesh: Mesh | None = None, compute: Compute | None = None
    ) -> LanguageModel:
        """The model in a checkpoint that MaxText's training saved. Raises AloeError where it is another."""
        raise AloeError(
            f"{path}: a checkpoint of MaxText's holds no model of our own decoder; set model.backend=maxtext"
        )

    @abstractmethod
    def stored_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor in a Hugging Face directory, by its key."""


class LanguageModel(nnx.Module):
    """A causal language model over token trees, with its weights as nnx.Param.

    With a cap c, logits (or scores of attention) x are c·tanh(x / c).
    """

    spec: ModelSpec
    compute: Compute
    lora: LoRASettings | None  # which adapters it has, None: none

    @property
    def final_cap(self) -> float | None:
        """Of logits; None: not capped."""
        return None

    @property
    def attention_cap(self) -> float | None:
        """Of scores of attention; None: not capped."""
        return None

    def __call__(
        self, tokens: jax.Array, positions: jax.Array | None = None, subtree_end: jax.Array | None = None
    ) -> jax.Array:
        """Logits of the next token: int [B,T] -> float32 [B,T,V]. See `hidden`."""
        return self.logits(self.hidden(tokens, positions, subtree_end))

    @abstractmethod
    def hidden(
        self, tokens: jax.Array, positions: jax.Array | None = None, subtree_end: jax.Array | None = None
    ) -> jax.Array:
        """States after the final norm: int [B,T] -> [B,T,D] in the compute type.

        `positions` [B,T] (default 0..T-1) is each token's depth on its own path; `subtree_end` [B,T]
        (default: plain causal) is the exclusive index at which the subtree of the token's node ends: query q
        sees key k when k <= q < subtree_end[k].
        """

    def penalised_hidden(
        self, tokens: jax.Array, positions: jax.Array | None = None, subtree_end: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """`hidden`, and what the model adds to a loss of mean 1 (a scalar, of routers of experts), or None."""
        return self.hidden(tokens, positions, subtree_end), None

    @abstractmethod
    def unembedding(self) -> jax.Array:
        """The head [D,V] in the compute type."""

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[...,D] -> float32 [...,V], float64 where that is what comes in."""
        with jax.named_scope("head"):
            wide = jnp.promote_types(hidden.dtype, jnp.float32)
            logits = jnp.matmul(hidden, self.unembedding(), preferred_element_type=wide)
            return logits if self.final_cap is None else self.final_cap * jnp.tanh(logits / self.final_cap)

    @abstractmethod
    def unstacked(self) -> Layers:
        """The weights of every layer as arrays of their own, in the compute type where they are used in it.

        A loop that runs the layers many times reads these; out of the stack, each would be copied at every step.
        """

    @abstractmethod
    def cached(self, tokens: jax.Array, positions: jax.Array, layers: Layers, attention: CachedAttention) -> jax.Array:
        """As `hidden`, where the tokens attend to what the caller keeps: int [B,T] at int [B,T] -> [B,T,D].

        `layers` as from `unstacked`. `attention` gets the number of the layer, its queries [B,T,N,H], keys and values
        [B,T,K,H] with rotary positions, and gives [B,T,N,H].
        """

    def split(self) -> ModelParts:
        """Graph and parameters."""
        graph, parameters = nnx.split(self, nnx.Param)
        return ModelParts(graph, nnx.to_pure_dict(parameters))

    def adapted(self, lora: LoRASettings, seed: int, dtype: str = "float32", mesh: Mesh | None = None) -> LanguageModel:
        """The model with new adapters, its target weights kept as `lora.base` says. Changes it and returns it.

        Raises AloeError where the model takes none.
        """
        raise AloeError(ADAPTED)

    def with_adapters(self, lora: LoRASettings, values: Mapping[str, jax.Array]) -> LanguageModel:
        """As `adapted`, with adapters that exist."""
        raise AloeError(ADAPTED)

    def adapter_values(self) -> dict[str, jax.Array]:
        """Its adapters by name; none where `lora` is None."""
        return {}

    def merged(self) -> LanguageModel:
        """A model with the adapters added to the weights, as they were kept in training; itself if it has none."""
        return self

    @abstractmethod
    def stored_tensors(self, dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
        """Every tensor of a Hugging Face directory in the order of `ModelSpec.stored_shapes`, one weight at a time."""

    def save_checkpoint(
        self, path: Path, dtype: str, tokenizer: TransformersTokenizer | None = None, card: str = ""
    ) -> None:
        """Write a checkpoint that MaxText reads. Raises AloeError for a model that is not one of its own."""
        raise AloeError(
            f"{path}: the model is of our own decoder, not of MaxText; export it with --format huggingface, and "
            "that directory with --format maxtext"
        )


ADAPTED = "model.lora: adapters are for our own decoder; leave lora out, or set backend=native"


def named_parameters(model: LanguageModel) -> dict[str, jax.Array]:
    """Every parameter by its dotted name."""
    state = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {".".join(map(str, path)): variable[...] for path, variable in state}


def check_vocabulary(tokenizer: TransformersTokenizer, spec: ModelSpec, where: str) -> None:
    """Raise AloeError naming `where` when a transformers tokenizer has ids that the embedding has no vector for.

    Special tokens that were added and that nothing uses, such as one for padding, may be beyond it.
    """
    try:
        unused_tokens(tokenizer, spec.vocab)
    except AloeError as error:
        raise AloeError(f"{where}: {error}") from None
