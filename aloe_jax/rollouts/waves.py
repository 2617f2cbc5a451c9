"""How the conversations of a step are divided into waves, each drawn in a session of its own."""

from __future__ import annotations

from collections.abc import Callable

from aloe_jax.rollouts.rewards import roles_of
from aloe_jax.rollouts.settings import RLSettings

WAVES = 2  # where remote models answer one while the policy replies in the other


def wave_count(settings: RLSettings, is_remote: Callable[[str], bool]) -> int:
    """How many there are: one where scripts play all the roles that are asked, and there is nothing to wait for."""
    return WAVES if any(map(is_remote, ("user", *roles_of(settings.weights)))) else 1
