"""The stages of training: one entry a stage here, one file a stage beside it.

Nothing heavy is imported here: settings read the table. A stage of your own is an entry and a class (stage.py says
what it decides); the loop, the planner, the display and the checkpoints know none of them by name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StageEntry:
    """Where a stage is, and what must be known of it before it is imported."""

    module: str
    name: str  # of its class
    needs_model: bool = False  # it starts from a trained model (`model.path`), never from scratch
    # Where its batches come from (source.py), and whether that is `data`.
    source: tuple[str, str] = ("aloe_jax.training.data_source", "DataSource")
    needs_data: bool = True
    makes_up: bool = False  # a start that finds all steps done may have a validation of the last one to complete


STAGES = {
    "sft": StageEntry("aloe_jax.training.stages.sft", "SFT"),
    "dpo": StageEntry("aloe_jax.training.stages.dpo", "DPO", needs_model=True),
    "rl": StageEntry(
        "aloe_jax.training.stages.rl",
        "RL",
        needs_model=True,
        source=("aloe_jax.training.rollout_source", "RolloutSource"),
        needs_data=False,
        makes_up=True,
    ),
}
