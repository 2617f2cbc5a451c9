"""Which of MaxText's models: a name, settings over its own, and its special tokens; the sizes that follow."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import jax
from jax.sharding import Mesh

from aloe_jax.errors import AloeError
from aloe_jax.models.maxtext import internals
from aloe_jax.models.maxtext.families import Config
from aloe_jax.models.maxtext.layers import stackings
from aloe_jax.models.settings import LoRASettings
from aloe_jax.models.weights import Weight, zeros
from aloe_jax.settings import shown

Setting = bool | int | float | str | tuple["Setting", ...] | None

# Settings that would be given twice, or make rows of several conversations depend on each other.
OURS = {
    "attention": "model.attention",
    "dtype": "model.compute_dtype",
    "weight_dtype": "model.dtype",
    "remat_policy": "model.remat",
    "model_name": "model.name",
    "max_target_length": "data.row_length",
    "learning_rate": "optimizer.learning_rate",
    **{name: "mesh" for name in internals.FIXED if name in ("mesh_axes", "data_sharding")},
}
REFUSED = {
    "capacity_factor": "with a capacity, which tokens reach an expert depends on the other conversations of a row",
    "use_multimodal": "conversations are text",
    "quantization": "weights are trained in model.dtype",
    "moba": "its blocks are positions in the row, not on a path",
    "mtp_num_layers": "only the next token is predicted",
}
BLOCKS = {"wi_0", "wi_1", "wo"}  # the last names of experts' weights [E, ...]


@dataclass(frozen=True)
class MaxTextShape:
    """A model of MaxText's. Settings are by its own names, such as base_emb_dim."""

    name: str = "default"  # of the settings that `settings` go over
    settings: tuple[tuple[str, Setting], ...] = ()  # a mapping is accepted, too
    max_length: int = 4096  # tokens of the longest path
    family: str | None = None  # model_type in a config.json, of those in families.py
    query_scale: float | None = None  # what queries are divided by, squared, where that is not H
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None

    def __post_init__(self) -> None:
        settings = frozen(dict(self.settings))
        object.__setattr__(self, "settings", settings)
        object.__setattr__(self, "eos_ids", tuple(self.eos_ids))
        for key, value in settings:
            if key in OURS:
                raise AloeError(f"model.overrides.{key}: is set by {OURS[key]}; set that")
            if key in REFUSED and value not in (False, 0, -1, -1.0, ""):
                raise AloeError(f"model.overrides.{key}: {REFUSED[key]}; leave it out")

    # ------------------------------------------------------------ sizes

    @property
    def resolved(self) -> Config:
        """MaxText's settings, all of them."""
        return internals.resolve(self.name, self.computed())

    @property
    def vocab(self) -> int:
        """V."""
        return int(self.resolved.vocab_size)

    @property
    def layers(self) -> int:
        """How many attentions follow each other."""
        return len(self.attention)

    @property
    def width(self) -> int:
        """D."""
        return int(self.resolved.emb_dim)

    @property
    def query_heads(self) -> int:
        """N."""
        return int(self.resolved.num_query_heads)

    @property
    def kv_heads(self) -> int:
        """K."""
        return int(self.resolved.num_kv_heads)

    @property
    def head_size(self) -> int:
        """H."""
        return int(self.resolved.head_dim)

    @property
    def feed_forward(self) -> int:
        """F; with experts, of those that a token goes through."""
        if self.experts > 1:
            return int(self.resolved.moe_mlp_dim) * int(self.resolved.num_experts_per_tok)
        return int(self.resolved.mlp_dim)

    @property
    def experts(self) -> int:
        """E; 1 where there are none."""
        return int(self.resolved.num_experts)

    @property
    def tie_embeddings(self) -> bool:
        """Whether the head is the embedding."""
        return bool(self.resolved.logits_via_embedding)

    @property
    def final_cap(self) -> float | None:
        """c of logits c·tanh(x / c), None where they are not capped."""
        return float(self.resolved.final_logits_soft_cap or 0.0) or None

    @property
    def attention(self) -> tuple[tuple[str, int], ...]:
        """Kind and window of every layer."""
        return self.skeleton(unrolled=True).attention

    @property
    def windows(self) -> tuple[int, ...]:
        """See ModelSpec."""
        windows = tuple(window for _, window in self.attention)
        return windows if any(windows) else ()

    def active_count(self) -> int:
        """See ModelSpec."""
        return round(sum(math.prod(w.shape) * self._share(name) for name, w in self.weights().items()))

    def active_matrices(self) -> float:
        """See ModelSpec."""
        return sum(math.prod(shape) * self._share(name) for name, shape in self._matrices())

    def computed_matrices(self) -> float:
        """See ModelSpec. Without sparse_matmul every expert computes every token."""
        if self.resolved.sparse_matmul:
            return self.active_matrices()
        return sum(math.prod(shape) for _, shape in self._matrices())

    def score_values(self) -> float:
        """See ModelSpec."""
        resolved = self.resolved
        if resolved.attention_type != "mla":
            return self.layers * self.query_heads * self.head_size
        met, mixed = resolved.qk_nope_head_dim + resolved.qk_rope_head_dim, resolved.v_head_dim
        return self.layers * self.query_heads * (met + mixed) / 2

    def _matrices(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the layers' matrices, with all experts."""
        for name, weight in self.weights().items():
            *path, last = name.split(".")
            if last in BLOCKS or (last == "kernel" and "logits_dense" not in path):
                yield name, weight.shape

    def _share(self, name: str) -> float:
        """Which part of a weight a token goes through."""
        if self.experts == 1 or name.rpartition(".")[2] not in BLOCKS:
            return 1.0
        return float(self.resolved.num_experts_per_tok) / self.experts

    # ------------------------------------------------------------ weights

    def weights(self) -> dict[str, Weight]:
        """All weights by dotted name, laid out by MaxText's rules in the axes of our mesh; see models/weights.py."""
        made = self.skeleton()
        return {
            name: Weight(tuple(shape.shape), _axes(made.partitions[name], len(shape.shape)), zeros)
            for name, shape in made.shapes.items()
        }

    def skeleton(
        self, mesh: Mesh | None = None, settings: Mapping[str, Setting] | None = None, unrolled: bool = False
    ) -> internals.Skeleton:
        """The model without weights, computed as `settings` say; `unrolled`: every layer with weights of its own."""
        over = dict(settings or {}) | ({"scan_layers": False, "remat_policy": "none"} if unrolled else {})
        return internals.skeleton(self.name, self.computed(**over), mesh or internals.single_device_mesh())

    def computed(self, **settings: Setting) -> tuple[tuple[str, Setting], ...]:
        """The settings with some more over them: those that say how the model is computed."""
        plain: dict[str, Setting] = {
            "attention": "dot_product",
            "dtype": "float32",
            "weight_dtype": "float32",
            "remat_policy": "none",
            "max_target_length": self.max_length,
        }
        return tuple(sorted((dict(self.settings) | plain | settings).items()))

    def stacked(self) -> dict[str, int]:
        """See ModelSpec."""
        shapes = {name: weight.shape for name, weight in self.weights().items()}
        found = stackings(shapes, self.resolved.param_scan_axis)
        return {name: len(one.numbers) for name, one in found.items() if one.numbers is not None}

    def unstacked_axes(self, lora: LoRASettings | None = None) -> tuple[dict[str, tuple[str | None, ...]], ...]:
        """See ModelSpec: all weights of all layers, in one dict; there are no adapters."""
        loose = replace(self, settings=(*self.settings, ("scan_layers", False)))
        return ({name: weight.axes for name, weight in loose.weights().items()},)

    def uncached(self) -> str | None:
        """See ModelSpec."""
        resolved = self.resolved
        if resolved.attention_type == "mla":
            return "keys and values of different sizes (MLA)"
        if resolved.attention_sink or resolved.decoder_block.name == "GPT_OSS":
            return "attention sinks"
        other = resolved.global_head_dim or self.head_size, resolved.global_num_kv_heads or self.kv_heads
        if other != (self.head_size, self.kv_heads):
            return "layers whose heads differ in number or size"
        return None


def frozen(settings: Mapping[str, object]) -> tuple[tuple[str, Setting], ...]:
    """Settings in a form that can be hashed, in order. Raises AloeError naming one that is no setting."""
    return tuple(sorted((str(key), _frozen(str(key), value)) for key, value in settings.items()))


def _frozen(key: str, value: object) -> Setting:
    if isinstance(value, list | tuple):
        return tuple(_frozen(key, part) for part in value)
    if not isinstance(value, bool | int | float | str | None):
        raise AloeError(
            f"model.overrides.{key}: {shown(value)}; expected a number, a text, true, false, null or a list"
        )
    return value


# Which of our logical axes is along an axis of the mesh: MaxText's own names are finer than these.
ALONG = {"fsdp": "width", "tensor": "feed_forward", "data": None}


@functools.lru_cache(maxsize=4096)
def _axes(partition: jax.sharding.PartitionSpec, rank: int) -> tuple[str | None, ...]:
    """A weight's logical axes: the first mesh axis of each dimension decides, and none is used twice."""
    used: set[str] = set()
    axes: list[str | None] = []
    for part in (*partition, *(None,) * (rank - len(partition))):
        names = (part,) if isinstance(part, str) else part or ()
        axis = next((ALONG[name] for name in names if ALONG.get(name) and ALONG[name] not in used), None)
        if axis is not None:
            used.add(axis)
        axes.append(axis)
    return tuple(axes)
