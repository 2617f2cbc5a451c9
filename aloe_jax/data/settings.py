"""Settings of training data: which conversations, and how they are packed in rows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from aloe_jax.ranges import PathText, Positive, Rows, Tokens
from aloe_jax.settings import Section

Packing = Literal["trees", "paths"]
# That SFT learns. rejected: as a baseline, what people did not prefer; plain: written without the persona hint.
Replies = Literal["preferred", "rejected", "plain", "both"]


class SourceSettings(Section):
    """One data set of a mixture."""

    path: PathText  # TFDS directory (…/aloe_trees/1.0.0) or a JSONL file
    format: Literal["auto", "trees", "chat", "preferences"] = "auto"  # auto: as the first record shows
    weight: Annotated[float, Field(ge=1e-6, le=1000)] = 1.0  # passes over it in an epoch; 0.5: every other time
    limit: Positive | None = None  # its first so many records only, before any are held out for validation


class RowSettings(Section):
    """Rows of packed conversations."""

    row_length: Tokens = 2048
    rows: Rows = 8  # computed together, over all devices


class DataSettings(RowSettings):
    """Which conversations, and how they are laid out in rows."""

    path: str = ""  # TFDS directory (…/aloe_trees/1.0.0) or a JSONL file: of conversation trees, chats or preferences
    mixture: tuple[SourceSettings, ...] = Field(default=(), strict=False)  # several data sets, instead of `path`
    # The layout of conversations in rows. trees: every token once, replies as branches. paths: every reply after a
    # prompt of its own, several times the tokens; for the flash kernels of MaxText's models, which know no trees.
    packing: Packing = "trees"
    accumulate: Rows = 1  # parts in which the rows of a step are computed: less memory, same result
    limit: Positive | None = None  # first so many records of `path` only
    validation_limit: Positive | None = 200  # conversations of each source's validation split
    validation_fraction: Annotated[float, Field(ge=1e-6, lt=1.0)] = 0.05  # held out of a data set without such a split
    # What is held out: whole profiles, so that validation meets people whom training has not, where records have
    # personas; or conversations one by one, of people who are in training too. Earlier versions did the latter.
    validation_by: Literal["profile", "conversation"] = "profile"

    @property
    def sources(self) -> tuple[SourceSettings, ...]:
        """The data sets: one, those of the mixture, or none where a stage needs no data."""
        one = (SourceSettings.model_construct(path=self.path, limit=self.limit),) if self.path else ()
        return self.mixture or one
