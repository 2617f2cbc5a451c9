"""The shape of a decoder, to and from Hugging Face's config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aloe_jax.data.tokenizer_files import unused_tokens
from aloe_jax.errors import AloeError
from aloe_jax.models.families import FAMILIES, read_switches, write_switches
from aloe_jax.models.settings import ArchitectureSettings
from aloe_jax.models.values import check, number, only, rope, shown, token_id, token_ids

# What config.json says of arithmetic that this decoder has not: the setting and the values that mean it is not used.
ABSENT: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "partial_rotary_factor": (None, 1.0),
    "final_logit_softcapping": (None,),
    "attn_logit_softcapping": (None,),
}


@dataclass(frozen=True)
class ModelSpec:
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

    @classmethod
    def from_architecture(
        cls,
        shape: ArchitectureSettings,
        vocab: int,
        *,
        bos_id: int | None = None,
        eos_ids: tuple[int, ...] = (),
        pad_id: int | None = None,
    ) -> ModelSpec:
        """The spec of a model trained from scratch. AloeError when the heads do not divide the width."""
        if shape.width % shape.query_heads:
            raise AloeError(
                f"model.architecture: width {shape.width} is not a multiple of query_heads {shape.query_heads}"
            )
        return cls(
            vocab=vocab,
            layers=shape.layers,
            width=shape.width,
            query_heads=shape.query_heads,
            kv_heads=shape.kv_heads,
            head_size=shape.width // shape.query_heads,
            feed_forward=shape.feed_forward,
            max_length=shape.max_length,
            rope_theta=shape.rope_theta,
            tie_embeddings=shape.tie_embeddings,
            bos_id=bos_id,
            eos_ids=eos_ids,
            pad_id=pad_id,
        )

    @classmethod
    def from_huggingface(cls, values: Mapping[str, Any], where: str = "config.json") -> ModelSpec:
        """Read the content of a config.json, of transformers 4 or 5.

        Raises AloeError naming `where` and the key when the model is of another family or uses arithmetic that
        this decoder does not have.
        """
        kind = values.get("model_type")
        if not isinstance(kind, str) or kind not in FAMILIES:
            raise AloeError(f"{where}: model_type is {shown(kind)}; supported: {', '.join(FAMILIES)}")
        only(values, ABSENT, where)
        values = {**FAMILIES[kind].reads, **values}
        check(values, where)
        table = rope(values, where)
        if table is not values.get("rope_parameters"):  # it must be one that could be computed, too
            _rope_scaling(values.get("rope_parameters") or {}, values, where)
        heads = values["num_attention_heads"]
        switches = read_switches(kind, values, where)
        if switches.get("norm_eps") is None:
            switches["norm_eps"] = number(values.get("rms_norm_eps", 1e-6), "rms_norm_eps", where)
        fields: dict[str, Any] = {
            "family": kind,
            "vocab": values["vocab_size"],
            "layers": values["num_hidden_layers"],
            "width": values["hidden_size"],
            "query_heads": heads,
            "kv_heads": values.get("num_key_value_heads") or heads,
            "head_size": values.get("head_dim") or values["hidden_size"] // heads,
            "feed_forward": values["intermediate_size"],
            "max_length": values["max_position_embeddings"],
            "rope_theta": _rope_theta(table, values, where),
            "rope_scaling": _rope_scaling(table, values, where),
            "tie_embeddings": values.get("tie_word_embeddings", False),
            "bos_id": token_id(values.get("bos_token_id"), "bos_token_id", where),
            "eos_ids": token_ids(values.get("eos_token_id"), "eos_token_id", where),
            "pad_id": token_id(values.get("pad_token_id"), "pad_token_id", where),
        }
        try:
            return cls(**fields, **switches)
        except AloeError as error:
            raise AloeError(f"{where}: {error}") from None

    def to_huggingface(self) -> dict[str, Any]:
        """The content of a config.json that transformers 4 and 5 read as this model."""
        rope: dict[str, Any] = {"rope_type": "default"}
        if self.rope_scaling is not None:
            factor, low, high, original = self.rope_scaling
            rope = {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": int(original),
            }
        return {
            "architectures": [FAMILIES[self.family].architecture],
            "model_type": self.family,
            "vocab_size": self.vocab,
            "num_hidden_layers": self.layers,
            "hidden_size": self.width,
            "num_attention_heads": self.query_heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_size,
            "intermediate_size": self.feed_forward,
            "max_position_embeddings": self.max_length,
            "rope_theta": self.rope_theta,
            "rope_scaling": rope if self.rope_scaling is not None else None,
            "rope_parameters": {**rope, "rope_theta": self.rope_theta},
            **({"rms_norm_eps": self.norm_eps} if self.norm == "rms" else {}),
            "tie_word_embeddings": self.tie_embeddings,
            "bos_token_id": self.bos_id,
            "eos_token_id": {0: None, 1: next(iter(self.eos_ids), None)}.get(len(self.eos_ids), list(self.eos_ids)),
            "pad_token_id": self.pad_id,
            "hidden_act": "silu",
            **write_switches(self),
        }

    def parameter_count(self) -> int:
        """Number of trained values; tied embeddings count once."""
        heads = {"query": self.query_heads, "key": self.kv_heads, "value": self.kv_heads}
        sizes = {name: count * self.head_size for name, count in heads.items()}
        sizes |= {"output": self.width, "gate": self.feed_forward, "up": self.feed_forward, "down": self.width}
        vectors = sum(sizes[name] for name in self.biases)
        if self.norm == "rms":
            vectors += 2 * self.width
        if self.qk_norm != "none":
            vectors += 2 * self.head_size if self.qk_norm == "head" else sizes["query"] + sizes["key"]
        embeddings = self.vocab * self.width * (1 if self.tie_embeddings else 2)
        final = self.width if self.norm == "rms" else 0
        return self.layers * (self._layer_matrices() + vectors) + embeddings + final

    def forward_flops(self, tokens: int, attended_pairs: int) -> int:
        """Floating-point operations of one forward pass over `tokens` tokens, the head included.

        `attended_pairs` counts the (query, key) pairs that the mask lets through, over all rows, windows aside: a
        layer with a window counts at most that many keys a token. A multiply-add counts as 2; norms, biases, RoPE
        and softmax are left out. A training step is three times this.
        """
        windows = self.windows or (0,) * self.layers
        pairs = sum(min(attended_pairs, tokens * window) if window else attended_pairs for window in windows)
        matrices = self.layers * self._layer_matrices() + self.vocab * self.width
        return 2 * tokens * matrices + 4 * self.query_heads * self.head_size * pairs

    def _layer_matrices(self) -> int:
        attention = self.width * self.head_size * 2 * (self.query_heads + self.kv_heads)
        return attention + 3 * self.width * self.feed_forward


def check_vocabulary(tokenizer: Any, spec: ModelSpec, where: str) -> None:
    """Raise AloeError naming `where` when a transformers tokenizer has ids that the embedding has no vector for.

    Special tokens that were added and that nothing uses, such as one for padding, may lie beyond it.
    """
    try:
        unused_tokens(tokenizer, spec.vocab)
    except AloeError as error:
        raise AloeError(f"{where}: {error}") from None


def _rope_theta(table: Mapping[str, Any], values: Mapping[str, Any], where: str) -> float:
    theta = table["rope_theta"] if "rope_theta" in table else values.get("rope_theta", 10_000.0)
    return number(theta, "rope_theta", where)


def _rope_scaling(
    table: Mapping[str, Any], values: Mapping[str, Any], where: str
) -> tuple[float, float, float, float] | None:
    if any(isinstance(value, Mapping) for value in table.values()):
        raise AloeError(f"{where}: rope_parameters differ between layers; supported: the same in all")
    only(table, {"partial_rotary_factor": (1.0, None)}, where)
    kind = table.get("rope_type", table.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise AloeError(f"{where}: rope_type is {shown(kind)}; supported: default, llama3")
    for key in ("factor", "low_freq_factor", "high_freq_factor"):
        if key not in table:
            raise AloeError(f"{where}: the key {key} is missing from the settings of RoPE")
    factor, low, high = (number(table[key], key, where) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    if low == high:
        raise AloeError(f"{where}: low_freq_factor and high_freq_factor of RoPE are both {low:g}; they must differ")
    key = "original_max_position_embeddings"
    original = table.get(key, values["max_position_embeddings"])
    if values.get(key, original) != original:
        raise AloeError(
            f"{where}: {key} is {shown(values[key])}, and {shown(original)} in the settings of RoPE; leave one out"
        )
    return (factor, low, high, number(original, key, where))
