"""Losses over pairs of replies, a table of small functions, each with its paper.

They take *scores* s [..., 2] of the preferred and the rejected reply: log π(y|x) - log π_ref(y|x), or log π(y|x) where
there is no reference; divided by the reply's number of tokens where the loss is normalised by length. Δ is the
preferred reply's score minus the rejected one's, and β s is the reward that the loss implies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Constants(NamedTuple):
    """What a loss is set by: β, the share ε of pairs judged the wrong way round, and the margin γ asked for."""

    beta: float
    label_smoothing: float = 0.0
    gamma: float = 0.0


def sigmoid(scores: jax.Array, constants: Constants) -> jax.Array:
    """-log σ(β Δ), DPO (arXiv 2305.18290, eq. 7).

    With ε > 0: -(1 - ε) log σ(β Δ) - ε log σ(-β Δ), conservative DPO (Mitchell, "A note on DPO with noisy
    preferences and relationship to IPO", 2023), whose minimum is at σ(β Δ) = 1 - ε.
    """
    return _smoothed(constants.beta * _delta(scores), constants.label_smoothing)


def robust(scores: jax.Array, constants: Constants) -> jax.Array:
    """(-(1 - ε) log σ(β Δ) + ε log σ(-β Δ)) / (1 - 2 ε): rDPO (Chowdhury et al., arXiv 2403.00409).

    Its expectation over labels flipped with probability ε is the DPO loss of the clean ones; at ε = 0 it is DPO.
    """
    logits, flipped = constants.beta * _delta(scores), constants.label_smoothing
    kept = -(1 - flipped) * jax.nn.log_sigmoid(logits) + flipped * jax.nn.log_sigmoid(-logits)
    return kept / (1 - 2 * flipped)


def ipo(scores: jax.Array, constants: Constants) -> jax.Array:
    """(Δ - 1 / 2β)², IPO (Azar et al., arXiv 2310.12036, eq. 17; its τ is β).

    The paper writes the log-ratios of whole replies and does not speak of length. With those, the square would ask
    long and short replies for the same gap; its authors averaged over tokens, as they advised TRL's, and so does this
    table: its scores are per token.
    """
    return (_delta(scores) - 1 / (2 * constants.beta)) ** 2


def hinge(scores: jax.Array, constants: Constants) -> jax.Array:
    """max(0, 1 - β Δ): the hinge of SLiC (arXiv 2305.10425) on DPO's reward, "hinge-norm" in RSO (arXiv 2309.06657)."""
    return jax.nn.relu(1 - constants.beta * _delta(scores))


def simpo(scores: jax.Array, constants: Constants) -> jax.Array:
    """-log σ(β Δ - γ), SimPO (Meng et al., arXiv 2405.14734, eq. 6): no reference, per token, a margin γ asked for.

    ε > 0 smooths labels as in conservative DPO.
    """
    return _smoothed(constants.beta * _delta(scores) - constants.gamma, constants.label_smoothing)


def orpo(scores: jax.Array, constants: Constants) -> jax.Array:
    """-s_preferred - β log σ(log odds ratio), ORPO (Hong et al., arXiv 2403.07691, eqs. 6 and 7; its λ is β).

    The odds of a reply are p / (1 - p) with p = exp(s), s the mean log-probability of its tokens. The first term is
    supervised fine-tuning on the preferred reply alone; TRL and the authors' code add up the prompt's tokens too.
    """
    # At p = 1 the odds have no finite logarithm: a reply as certain as this one counts as this certain.
    bounded = jnp.minimum(scores, -1e-6)
    log_odds = bounded - jnp.log(-jnp.expm1(bounded))
    return -scores[..., 0] - constants.beta * jax.nn.log_sigmoid(_delta(log_odds))


def _delta(scores: jax.Array) -> jax.Array:
    return scores[..., 0] - scores[..., 1]


def _smoothed(logits: jax.Array, flipped: float) -> jax.Array:
    return -(1 - flipped) * jax.nn.log_sigmoid(logits) - flipped * jax.nn.log_sigmoid(-logits)


@dataclass(frozen=True)
class PreferenceLoss:
    """An entry of the table: (scores [..., 2], constants) -> [...], and which scores it takes."""

    of: Callable[[jax.Array, Constants], jax.Array]
    reference: bool = True  # scores are relative to a reference
    per_token: bool = False  # scores are divided by the reply's number of tokens
    smooths: bool = False  # label_smoothing has an effect


PREFERENCE_LOSSES: dict[str, PreferenceLoss] = {
    "sigmoid": PreferenceLoss(sigmoid, smooths=True),
    "robust": PreferenceLoss(robust, smooths=True),
    "ipo": PreferenceLoss(ipo, per_token=True),
    "hinge": PreferenceLoss(hinge),
    # DPO on log-ratios per token, with which Tülu 3 was trained (Lambert et al., arXiv 2411.15124).
    "length_normalised": PreferenceLoss(sigmoid, per_token=True, smooths=True),
    "simpo": PreferenceLoss(simpo, reference=False, per_token=True, smooths=True),
    "orpo": PreferenceLoss(orpo, reference=False, per_token=True),
}
