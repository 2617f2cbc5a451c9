"""Whether settings, rows, model and mesh fit each other: the same answer for a run, a dry run and a plan."""

from __future__ import annotations

from collections.abc import Sequence

from aloe_jax.data.packing import Rows
from aloe_jax.errors import AloeError
from aloe_jax.models.spec import ModelSpec
from aloe_jax.training.settings import TrainSettings


def check_fit(settings: TrainSettings, spec: ModelSpec, splits: Sequence[Rows], shards: int) -> None:
    """Raise AloeError where rows are too long for the model, or cannot be split over `shards` devices of the mesh."""
    longest = max(int(rows.positions.max()) for rows in splits) + 1
    if longest > spec.max_length:
        raise AloeError(
            f"data.row_length: the longest conversation has {longest} tokens on one path, the model's maximum is "
            f"{spec.max_length}; lower data.row_length to {spec.max_length}"
        )
    parts = settings.data.accumulate
    if settings.data.rows % (shards * parts):
        over = f"{shards} devices (mesh data x fsdp)" + (f" in {parts} parts (data.accumulate)" if parts > 1 else "")
        raise AloeError(
            f"data.rows: {settings.data.rows} rows a step cannot be split over {over}; "
            f"give a multiple of {shards * parts}"
        )
