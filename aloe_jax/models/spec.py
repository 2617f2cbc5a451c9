"""The shape of a decoder, to and from Hugging Face's config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aloe_jax import config
from aloe_jax.errors import AloeError

# Settings of a Llama config.json that change the arithmetic, with the one value that this decoder computes.
FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "eos_ids", tuple(self.eos_ids))
        if self.rope_scaling is not None:
            object.__setattr__(self, "rope_scaling", tuple(self.rope_scaling))
        if self.query_heads % self.kv_heads:
            raise AloeError(
                f"model: {self.query_heads} query heads cannot share {self.kv_heads} key/value heads; "
                "make the first a multiple of the second"
            )
        if self.head_size % 2:
            raise AloeError(f"model: head_size must be even for rotary positions, not {self.head_size}")

    @classmethod
    def from_architecture(
        cls,
        shape: config.Architecture,
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
        if kind != "llama":
            raise AloeError(f"{where}: model_type is {kind!r}; supported: llama")
        for key, only in FIXED.items():
            if values.get(key, only) != only:
                raise AloeError(f"{where}: {key} is {values[key]!r}; supported: {only!r}")
        # transformers 5 keeps all of RoPE in rope_parameters, 4 spreads it over rope_theta and rope_scaling.
        rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
        try:
            return cls(
                vocab=values["vocab_size"],
                layers=values["num_hidden_layers"],
                width=values["hidden_size"],
                query_heads=values["num_attention_heads"],
                kv_heads=values.get("num_key_value_heads") or values["num_attention_heads"],
                head_size=values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"],
                feed_forward=values["intermediate_size"],
                max_length=values["max_position_embeddings"],
                rope_theta=float(rope.get("rope_theta") or values.get("rope_theta", 10_000.0)),
                norm_eps=float(values.get("rms_norm_eps", 1e-6)),
                tie_embeddings=values.get("tie_word_embeddings", False),
                bos_id=values.get("bos_token_id"),
                eos_ids=token_ids(values.get("eos_token_id")),
                pad_id=values.get("pad_token_id"),
                rope_scaling=_rope_scaling(rope, where),
            )
        except KeyError as error:
            raise AloeError(f"{where}: the key {error.args[0]} is missing") from None

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
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
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
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": self.tie_embeddings,
            "bos_token_id": self.bos_id,
            "eos_token_id": list(self.eos_ids) if len(self.eos_ids) != 1 else self.eos_ids[0],
            "pad_token_id": self.pad_id,
            **FIXED,
        }

    def parameter_count(self) -> int:
        """Number of trained values; tied embeddings count once."""
        attention = self.width * self.head_size * 2 * (self.query_heads + self.kv_heads)
        layer = attention + 3 * self.width * self.feed_forward + 2 * self.width
        embeddings = self.vocab * self.width * (1 if self.tie_embeddings else 2)
        return self.layers * layer + embeddings + self.width

    def forward_flops(self, tokens: int, attended_pairs: int) -> int:
        """Floating-point operations of one forward pass over `tokens` tokens, the head included.

        `attended_pairs` counts the (query, key) pairs that the mask lets through, over all rows. A multiply-add
        counts as 2; norms, RoPE and softmax are left out. A training step is three times this.
        """
        weights = self.parameter_count() - (2 * self.layers + 1) * self.width
        if not self.tie_embeddings:
            weights -= self.vocab * self.width  # the input table is looked up, not multiplied
        return 2 * tokens * weights + 4 * self.layers * self.query_heads * self.head_size * attended_pairs


def token_ids(value: int | list[int] | None) -> tuple[int, ...]:
    """Token ids as config.json and generation_config.json write them: none, one or a list."""
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def _rope_scaling(rope: Mapping[str, Any], where: str) -> tuple[float, float, float, float] | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise AloeError(f"{where}: rope_type is {kind!r}; supported: default, llama3")
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return tuple(float(rope[key]) for key in keys)  # type: ignore[return-value]
