"""Settings of the model: which one, and how it is computed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from aloe_jax.ranges import Factor, Heads, PathText, Several, Tokens, Width
from aloe_jax.settings import Section

Attention = Literal["auto", "dense", "chunked", "tpu", "gpu"]  # auto: the kernel of the platform
Remat = Literal["none", "full", "dots"]  # what the backward pass recomputes of a layer
DType = Literal["float32", "bfloat16"]


class ArchitectureSettings(Section):
    """A decoder trained from scratch. Ignored when `model.path` is given."""

    layers: Several = 4
    width: Width = 128
    query_heads: Heads = 4
    kv_heads: Heads = 4
    feed_forward: Width = 512
    max_length: Tokens = 1024
    rope_theta: Annotated[float, Field(ge=1.0, le=1e12)] = 10_000.0
    tie_embeddings: bool = True


LoRATarget = Literal["query", "key", "value", "output", "gate", "up", "down"]


class LoRASettings(Section):
    """Low-rank adapters: small matrices are trained beside weights that stay as they are (arXiv 2106.09685)."""

    rank: Annotated[int, Field(gt=0, le=2**14)] = 16
    alpha: Factor = 32.0  # the adapters' product is scaled by alpha / rank
    targets: tuple[LoRATarget, ...] = Field(
        default=("query", "key", "value", "output", "gate", "up", "down"), min_length=1, strict=False
    )
    base: Literal["as_loaded", "int8", "int4", "nf4"] = "as_loaded"  # how the frozen weights are kept; nf4: QLoRA


class ComputeSettings(Section):
    """How a model is computed."""

    attention: Attention = "auto"
    dtype: DType = "float32"  # of parameters; in training bfloat16 ones have float32 master copies
    compute_dtype: DType = "float32"


class ModelSettings(ComputeSettings):
    """Which model, and how it is computed."""

    backend: Literal["native", "maxtext"] = "native"  # our decoder, or one of MaxText's models
    # A Hugging Face directory, one of our run directories, or a checkpoint of MaxText's (.../checkpoints/9/items) with
    # its name and overrides; None: from scratch.
    path: PathText | None = None
    # Of a MaxText model from scratch or in one of its checkpoints, such as llama3.1-8b; `default`: by `overrides`.
    name: str | None = None
    # MaxText's own settings, such as base_emb_dim or load_balance_loss_weight.
    overrides: dict[str, object] = Field(default_factory=dict)
    architecture: ArchitectureSettings = ArchitectureSettings()
    tokenizer: PathText | None = None  # defaults to the tokenizer in `path`
    remat: Remat = "none"
    unroll: Several = 1  # layers per scan step: more compiles longer and runs faster on CPU
    lora: LoRASettings | None = None  # None: all parameters are trained
