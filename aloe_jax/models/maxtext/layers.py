"""Where MaxText keeps a layer's weights: in stacks along an axis, by cycles of layers, or every layer by itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import jax
from jax import lax

NUMBERED = re.compile(r"(.*)_(\d+)$")


@dataclass(frozen=True)
class Stacking:
    """Which layers' weights one of its weights is: the same weight, `part`, of the layers `numbers`, in this order.

    `stem` is the group of layers. `numbers` None: it belongs to no layer. `stacked`: along an axis, else of one layer.
    """

    stem: str
    part: str
    numbers: tuple[int, ...] | None
    stacked: bool


def stackings(names: Mapping[str, tuple[int, ...]], axis: int) -> dict[str, Stacking]:
    """The stacking of every weight, from names and shapes; `axis` is that of the stacks."""
    cycles: dict[str, int] = {}  # of a group of layers: how many different ones its stacks repeat
    depth: dict[str, int] = {}
    for name, shape in names.items():
        stem, inner, _, stacked = _parsed(name)
        if stacked and inner is not None:
            cycles[stem] = max(cycles.get(stem, 0), inner + 1)
            depth[stem] = shape[min(axis, len(shape) - 1)]
    found = {}
    for name, shape in names.items():
        stem, inner, part, stacked = _parsed(name)
        if not stem:
            found[name] = Stacking("", name, None, False)
        elif stem.endswith("_remainder"):
            group = stem.removesuffix("_remainder")
            found[name] = Stacking(group, part, (cycles.get(group, 0) * depth.get(group, 0) + (inner or 0),), False)
        elif stacked:
            count = shape[min(axis, len(shape) - 1)]
            step = cycles.get(stem, 1)
            found[name] = Stacking(stem, part, tuple(range(inner or 0, (inner or 0) + count * step, step)), True)
        else:
            assert inner is not None
            found[name] = Stacking(stem, part, (inner,), False)
    return found


def unstacked(
    weights: Mapping[str, jax.Array], wanted: Mapping[str, jax.ShapeDtypeStruct], axis: int
) -> dict[str, jax.Array]:
    """The weights as a model without stacks names them (`wanted`), out of one with or without."""
    if weights.keys() == wanted.keys():
        return dict(weights)
    given = stackings({name: tuple(weight.shape) for name, weight in weights.items()}, axis)
    single: dict[tuple[str, str, int | None], jax.Array] = {}
    for name, stacking in given.items():
        if stacking.numbers is None or not stacking.stacked:
            single[stacking.stem, stacking.part, stacking.numbers[0] if stacking.numbers else None] = weights[name]
            continue
        at = min(axis, weights[name].ndim - 1)
        for index, number in enumerate(stacking.numbers):
            single[stacking.stem, stacking.part, number] = lax.index_in_dim(weights[name], index, at, keepdims=False)
    found = {}
    for name, stacking in stackings({name: tuple(shape.shape) for name, shape in wanted.items()}, axis).items():
        found[name] = single[stacking.stem, stacking.part, stacking.numbers[0] if stacking.numbers else None]
    return found


def _parsed(name: str) -> tuple[str, int | None, str, bool]:
    """(group of layers, number in it, what follows, whether it is a stack); no group: the weight is of no layer."""
    first, *rest = name.split(".")
    if first != "decoder" or len(rest) < 2 or "layers" not in rest[0]:
        return "", None, name, False
    numbered = NUMBERED.match(rest[0])
    if numbered:  # layers_3.mlp…
        return numbered[1], int(numbered[2]), ".".join(rest[1:]), False
    stacked = not rest[0].endswith("_remainder")
    inner = NUMBERED.match(rest[1])
    if inner and inner[1] == "layers":  # layers.layers_3.mlp…: the fourth of every cycle
        return rest[0], int(inner[2]), ".".join(rest[2:]), stacked
    return rest[0], None, ".".join(rest[1:]), stacked
