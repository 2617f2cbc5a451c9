"""Reads preferences.json, which `python -m aloe_jax.evaluate --preferences` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from aloe_jax.benchmark.results import Number, StoredEstimate, StoredRecord
from aloe_jax.conversation import read_record

PREFERENCES = "preferences.json"


class TurnScores(StoredRecord):
    """The pairs of one turn; see `aloe_jax.benchmark.preference_scores`."""

    turn: int
    pairs: int
    accuracy: Number
    normalised_accuracy: Number
    margin: Number
    preferred_logp: Number
    rejected_logp: Number
    reward_accuracy: Number
    reward_margin: Number


class ModelScores(StoredRecord):
    """One model's scores on the held-out pairs."""

    conversations: int
    pairs: int
    lost: int
    accuracy: StoredEstimate
    normalised_accuracy: StoredEstimate
    margin: StoredEstimate
    preferred_logp: StoredEstimate
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
