"""How much better a reply is than the others to the same message: the table of advantages.

A group is G replies to one prompt, with rewards [G]. Where all rewards are equal, every advantage is exactly 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from aloe_jax.rollouts.settings import AdvantageName

Advantage = Callable[[np.ndarray], np.ndarray]


def centred(rewards: np.ndarray) -> np.ndarray:
    """Reward minus the mean of the group, not divided by its spread (Dr. GRPO, arXiv 2503.20783)."""
    return rewards - rewards.mean()


def standardised(rewards: np.ndarray) -> np.ndarray:
    """The same divided by the group's standard deviation (GRPO, arXiv 2402.03300, §4.1.2)."""
    return (rewards - rewards.mean()) / rewards.std()


def leave_one_out(rewards: np.ndarray) -> np.ndarray:
    """Reward minus the mean of the group's other rewards (RLOO, arXiv 2402.14740, eq. 6)."""
    return (rewards - rewards.mean()) * len(rewards) / (len(rewards) - 1)


ADVANTAGES: Mapping[AdvantageName, Advantage] = {
    "centred": centred,
    "standardised": standardised,
    "leave_one_out": leave_one_out,
}


def advantages(name: AdvantageName, rewards: np.ndarray) -> np.ndarray:
    """The advantages [G] of a group with these rewards [G], which are finite; G is at least 2."""
    # Equal but for rounding, which division by the spread would blow up.
    if np.ptp(rewards) <= 1e-9 * max(1.0, float(np.abs(rewards).max())):
        return np.zeros_like(rewards)
    return ADVANTAGES[name](rewards)
