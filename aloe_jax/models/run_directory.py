"""A training run's directory as a model: spec.json, tokenizer/ and checkpoints/STEP/params.

Reading a model from a run touches the parameters only, never the optimizer state.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, SingleDeviceSharding

from aloe_jax.errors import AloeError
from aloe_jax.models.decoder import Compute, Decoder, assemble
from aloe_jax.models.spec import ModelSpec
from aloe_jax.models.weights import nested, parameter_shardings, weights

SPEC = "spec.json"
CHECKPOINTS = "checkpoints"
PARAMS = "params"  # name of the parameters' item in every checkpoint


def save_spec(spec: ModelSpec, directory: Path) -> None:
    """Write spec.json."""
    write_atomically(directory / SPEC, json.dumps(dataclasses.asdict(spec), indent=1) + "\n")


def load_spec(directory: str | Path) -> ModelSpec:
    """Read spec.json. Raises AloeError naming the file and what is wrong."""
    path = Path(directory) / SPEC
    try:
        return ModelSpec(**json.loads(path.read_text()))
    except OSError as error:
        raise AloeError(f"{path}: cannot read the model's spec ({error.strerror})") from None
    except (ValueError, TypeError) as error:
        raise AloeError(f"{path}: not a model spec ({error})") from None


def checkpoint_steps(directory: str | Path) -> list[int]:
    """Steps of the finished checkpoints of a run, in order."""
    root = Path(directory) / CHECKPOINTS
    return sorted(int(entry.name) for entry in root.glob("*") if entry.name.isdigit() and (entry / PARAMS).is_dir())


def load_run(
    directory: str | Path,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    compute: Compute | None = None,
    step: int | None = None,
) -> Decoder:
    """The model of a run at `step` (default: the newest), cast to `dtype`, each device reading its own shards.

    Raises AloeError when the run has no such checkpoint or when it holds another model than spec.json says.
    """
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of metadata that an item never has
    spec = load_spec(directory)
    steps = checkpoint_steps(directory)
    if not steps or (step is not None and step not in steps):
        have = ", ".join(map(str, steps)) or "none"
        raise AloeError(f"{directory}: no checkpoint{'' if step is None else f' of step {step}'}; there are: {have}")
    path = (Path(directory) / CHECKPOINTS / str(step if step is not None else steps[-1]) / PARAMS).absolute()
    with ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.metadata(path).item_metadata.tree
        check_shapes(stored, spec, path)
        target = abstract_params(spec, mesh, jax.tree.map(lambda leaf: leaf.dtype, stored))
        params = checkpointer.restore(path, target)
    return assemble(spec, jax.tree.map(lambda x: x.astype(dtype), params), compute)


def abstract_params(spec: ModelSpec, mesh: Mesh | None, dtypes: Any) -> Any:
    """Shapes, types and places of all parameters: what a restore is told to make."""
    shapes = nested({name: weight.shape for name, weight in weights(spec).items()})
    if mesh is None:
        here = SingleDeviceSharding(jax.devices()[0])
        places = jax.tree.map(lambda _: here, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    else:
        places = parameter_shardings(spec, mesh)
    return jax.tree.map(
        lambda shape, dtype, place: jax.ShapeDtypeStruct(shape, dtype, sharding=place),
        shapes,
        dtypes,
        places,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


def check_shapes(stored: Any, spec: ModelSpec, path: Path) -> None:
    """Raise AloeError naming the first weight that `spec` and a checkpoint's metadata disagree on."""
    found = {
        ".".join(str(key.key) for key in keys): tuple(leaf.shape)
        for keys, leaf in jax.tree_util.tree_leaves_with_path(stored)
    }
    expected = {name: weight.shape for name, weight in weights(spec).items()}
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            raise AloeError(
                f"{path}: {name} is {found.get(name, 'missing')} there, {expected.get(name, 'unknown')} in the "
                "model: it is a checkpoint of another model"
            )


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name, then rename it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
