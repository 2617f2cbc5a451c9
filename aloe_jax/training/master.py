"""Float32 copies of parameters stored in bfloat16: what is trained; the parameters are their rounding.

bfloat16 has 8 bits of precision, so an update smaller than 1/512 of a weight would be lost in it, and most are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from aloe_jax.models.spec import Parameters


class MasterState(NamedTuple):
    """An optimizer's state, and beside it the copies: the tree of parameters, MaskedNode where none is needed."""

    master: Parameters
    inner: optax.OptState


@dataclass(frozen=True)
class MasterCopies:
    """An optax optimizer that works on float32 copies of the parameters that are narrower than float32.

    Gradients come in the parameters' types; clipping, moments and the update itself are float32. Parameters in
    float32 are their own copies and take no second one.
    """

    optimizer: optax.GradientTransformation

    def init(self, params: Parameters) -> MasterState:
        """Fresh state. The copies start at the parameters' values."""
        master = jax.tree.map(lambda p: p.astype(jnp.float32) if _narrow(p) else optax.MaskedNode(), params)
        return MasterState(master, self.optimizer.init(_wide(params, master)))

    def apply(self, gradients: Parameters, state: MasterState, params: Parameters) -> tuple[Parameters, MasterState]:
        """One update: (new parameters, in their types, new state).

        A new parameter is the rounded copy itself; the rounding errors of earlier ones do not add up in it.
        """
        before = _wide(params, state.master)
        gradients = jax.tree.map(lambda g, p: g.astype(p.dtype), gradients, before)
        updates, inner = self.optimizer.update(gradients, state.inner, before)
        after = optax.apply_updates(before, updates)
        master = jax.tree.map(lambda p, new: new if _narrow(p) else optax.MaskedNode(), params, after)
        return jax.tree.map(lambda p, new: new.astype(p.dtype), params, after), MasterState(master, inner)


def _narrow(param: jax.Array) -> bool:
    return jnp.finfo(param.dtype).bits < 32


def _wide(params: Parameters, master: Parameters) -> Parameters:
    """The parameters as the optimizer sees them: the copy where there is one."""
    found: Parameters = jax.tree.map(
        lambda copy, param: param if isinstance(copy, optax.MaskedNode) else copy,
        master,
        params,
        is_leaf=lambda copy: isinstance(copy, optax.MaskedNode),
    )
    return found
