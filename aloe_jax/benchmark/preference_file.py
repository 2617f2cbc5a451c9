"""What preference scoring stores: preferences.json, as types. Undefined numbers are null."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from aloe_jax.benchmark.results import Number, StoredEstimate, StoredRecord
from aloe_jax.conversation import read_record

PREFERENCES = "preferences.json"


class TurnScores(StoredRecord):
    """The pairs of one turn; see `aloe_jax.benchmark.preference_scores`."""

    turn: int  # 1-based depth
    pairs: int
    accuracy: Number
    normalised_accuracy: Number
    margin: Number
    preferred_logp: Number
    rejected_logp: Number
    reward_accuracy: Number
    reward_margin: Number


class ModelScores(StoredRecord):
    """One model's scores on the held-out pairs; reward numbers are undefined without a reference."""

    conversations: int
    pairs: int
    lost: int  # pairs that the other models (or the reference) have and this one could not score, or that fitted no row
    accuracy: StoredEstimate
    normalised_accuracy: StoredEstimate
    margin: StoredEstimate
    preferred_logp: StoredEstimate  # a reply, in nats
    rejected_logp: StoredEstimate
    reward_accuracy: StoredEstimate
    reward_margin: StoredEstimate
    by_turn: list[TurnScores]


class Preferences(StoredRecord):
    """All models of one run of preference scoring, in the order of its settings."""

    format: Literal["aloe-preferences"]
    version: Literal[1]
    aloe_jax: str
    models: dict[str, ModelScores]
    settings: dict[str, object]


def load_preferences(directory: str | Path) -> Preferences | None:
    """What a directory holds of preference scoring, None where that is nothing.

    Raises AloeError naming the file when it cannot be read.
    """
    path = Path(directory) / PREFERENCES
    if not path.is_file():
        return None
    return read_record(Preferences, path, "score the preferences again")
