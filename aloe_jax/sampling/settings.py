"""Settings of the sampler."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aloe_jax.models.settings import DType
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.ranges import Rows, Temperature, Tokens
from aloe_jax.settings import Section

CacheType = Literal["compute", "bfloat16", "int8"]  # of keys and values; compute: that of the activations


class DrawSettings(Section):
    """How tokens are drawn, one after the other; top_k 0 and top_p 1 do not cut."""

    temperature: Temperature = 1.0
    top_k: Annotated[int, Field(ge=0, le=2**20)] = 0
    top_p: Annotated[float, Field(ge=1e-6, le=1.0)] = 1.0
    max_new_tokens: Tokens = 128
    cache: CacheType = "compute"  # how keys and values are stored


class ReplySettings(DrawSettings):
    """How replies are drawn. temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 do not cut.

    The defaults, and those of a conversation in the terminal where they differ:

    | setting | evaluation and data | chat |
    | --- | --- | --- |
    | temperature | 1.0 | 0.7 |
    | top_p | 1.0 | 0.95 |
    """

    # A reply that is cut is rated as it is, half a reply. On-policy RL has a limit of its own, and `rl.overlong`.
    max_new_tokens: Tokens = 512

    min_p: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  # cuts what is less likely than this share of the likeliest
    # Above 1 makes tokens that the context contains less likely.
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    max_length: Tokens = 4096
    dtype: DType = "float32"  # of parameters and activations

    @model_validator(mode="after")
    def _room(self) -> ReplySettings:
        if self.max_new_tokens >= self.max_length:
            raise ValueError(
                f"max_new_tokens: {self.max_new_tokens} leave no room for a prompt in max_length {self.max_length}"
            )
        return self


class SamplingSettings(ReplySettings):
    """How the replies of many conversations are drawn together."""

    rows: Rows = 64  # conversations whose replies are drawn together; more wait their turn
    # Of a model that fits on one device every device gets some rows; over `tensor` the model itself is split.
    mesh: MeshSettings = MeshSettings(data=-1, fsdp=1)


# They say where replies are drawn, not what is drawn: a reply is never cut by max_length (a case stops before that),
# and rows draw for themselves wherever they are. But for rounding, replies do not depend on them.
PLACEMENT = frozenset({"max_length", "rows", "mesh"})


class ChatSettings(ReplySettings):
    """How replies are drawn in a conversation in the terminal."""

    temperature: Temperature = 0.7
    top_p: Annotated[float, Field(ge=1e-6, le=1.0)] = 0.95
