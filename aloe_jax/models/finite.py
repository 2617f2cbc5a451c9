"""Whether weights are numbers: infinite ones and NaN are never saved, and never loaded to be used."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def not_finite(tree: object) -> str | None:
    """The dotted name of the first array of a tree that is not finite throughout; None where all are.

    Computed where the arrays are, in one pass over them; what comes to the host is a bool an array.
    """
    flags = jax.device_get(_finite(tree))
    for path, finite in jax.tree_util.tree_leaves_with_path(flags):
        if not finite:
            return ".".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
    return None


@jax.jit
def _finite[T](tree: T) -> T:
    def whole(leaf: jax.Array) -> jax.Array:
        return jnp.isfinite(leaf).all() if jnp.issubdtype(leaf.dtype, jnp.inexact) else jnp.bool_(True)

    return jax.tree.map(whole, tree)
