"""Which personas a run by RL talks to, and which it validates with: read, split and counted in one way for all."""

from __future__ import annotations

from dataclasses import dataclass

from aloe_jax.conversation import Persona
from aloe_jax.data.dataset import read_personas
from aloe_jax.data.people import last_held_out
from aloe_jax.data.settings import DataSettings
from aloe_jax.errors import AloeError
from aloe_jax.rollouts.settings import RLSettings


@dataclass(frozen=True)
class RolloutPersonas:
    """Those to learn from, and the last `rl.heldout` for validation."""

    training: list[Persona]
    heldout: list[Persona]


def read_rollout_personas(rl: RLSettings, data: DataSettings) -> RolloutPersonas:
    """The personas of `rl.personas`, split as a run splits them.

    With `data.validation_by` profile nobody who shares a profile with a held-out persona is among those to learn from.
    Raises AloeError where they cannot be read, are those of the benchmark, or are too few for a step.
    """
    if rl.split == "benchmark":
        raise AloeError("rl.split: the personas of the benchmark are not for training; name another split")
    personas = read_personas(rl.personas or "", rl.split)
    training, heldout = last_held_out(personas, rl.heldout, data.validation_by == "profile")
    if len(training) < rl.conversations:
        others = len(personas) - len(training) - len(heldout)
        also = f" with {others} more of the same profiles (data.validation_by)" if others else ""
        raise AloeError(
            f"rl.personas: {rl.personas} has {len(personas)} personas in its split {rl.split}; a step takes "
            f"{rl.conversations} (rl.conversations), and {rl.heldout} are kept for validation (rl.heldout){also}: "
            "lower them, or give more"
        )
    return RolloutPersonas(training, heldout)


def steps_of(personas: int, rl: RLSettings, epochs: int) -> int:
    """The steps in which every one of so many personas talks `epochs` times."""
    return -(-epochs * personas // rl.conversations)
