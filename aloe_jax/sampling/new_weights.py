"""Other values for the weights of a model: checked by name and shape, in its types, on its devices."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from aloe_jax.errors import AloeError
from aloe_jax.models.spec import Parameters


def replaced(
    state: nnx.State[Hashable, object], trained: Parameters, params: Parameters
) -> nnx.State[Hashable, object]:
    """`state` with the values of `params` for its weights `trained`, both trees as `nnx.to_pure_dict` has them.

    Values that have the type and the sharding of what they replace are the same arrays, not copies. Raises AloeError
    naming the first weight that is missing, left over, or of another shape.
    """
    old, new = _named(trained), _named(params)
    _check(old, new)
    changed = {name: value for name, value in new.items() if value.dtype != old[name].dtype}
    if changed:
        new |= _cast(changed, tuple(old[name].dtype.name for name in sorted(changed)))
    placed = {name: jax.device_put(value, old[name].sharding) for name, value in new.items()}
    variables = [
        (path, variable.replace(placed[name]) if (name := ".".join(map(str, path))) in placed else variable)
        for path, variable in nnx.to_flat_state(state)
    ]
    return nnx.from_flat_state(variables)


def _named(tree: Parameters) -> dict[str, jax.Array]:
    """The values of a tree by their dotted names."""
    found, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): value for path, value in found}


def _check(old: Mapping[str, jax.Array], new: Mapping[str, jax.Array]) -> None:
    for name, weight in old.items():
        if name not in new:
            raise AloeError(f"update: weight {name} is missing; give all of LanguageModel.split().trained")
        if new[name].shape != weight.shape:
            raise AloeError(
                f"update: weight {name} has shape {tuple(new[name].shape)}, the sampler's has {tuple(weight.shape)}; "
                "it takes other values of the same model only"
            )
    for name in new:
        if name not in old:
            raise AloeError(
                f"update: the sampler's model trains no weight {name}; give LanguageModel.split().trained of a model "
                "with the same spec and adapters"
            )


@functools.partial(jax.jit, static_argnums=1)
def _cast(values: dict[str, jax.Array], types: tuple[str, ...]) -> dict[str, jax.Array]:
    """Values in these types, one a value in the order of the dictionary's sorted keys."""
    return {name: values[name].astype(jnp.dtype(type_)) for name, type_ in zip(sorted(values), types, strict=True)}
