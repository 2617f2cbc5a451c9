"""A training run's directory as a model: spec.json, tokenizer/ and checkpoints/STEP/params; adapter.json with LoRA.

Reading a model from a run touches the parameters only, never the optimizer state.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, SingleDeviceSharding

from aloe_jax import config
from aloe_jax.errors import AloeError
from aloe_jax.files import absolute, as_path, is_remote, write_atomically
from aloe_jax.models import backend
from aloe_jax.models.decoder import Compute, Decoder
from aloe_jax.models.fingerprint import fingerprint
from aloe_jax.models.generation import ending
from aloe_jax.models.lora import adapters, merged, with_adapters
from aloe_jax.models.spec import ModelSpec
from aloe_jax.models.weights import Weight, nested, weight_sharding, weights

SPEC = "spec.json"
ADAPTER = "adapter.json"  # beside spec.json where a run trains adapters: what they belong to
CHECKPOINTS = "checkpoints"
PARAMS = "params"  # name of the parameters' item in every checkpoint
FINISHED = "finished.json"  # what a run that reached its last step holds: training also ends well when it was stopped
COMMITTED = "commit_success.txt"  # in a bucket, what Orbax writes last into a checkpoint


def save_spec(spec: ModelSpec, directory: Path) -> None:
    """Write spec.json."""
    write_atomically(directory / SPEC, json.dumps(backend.to_json(spec), indent=1) + "\n")


def load_spec(directory: str | Path) -> ModelSpec:
    """Read spec.json. Raises AloeError naming the file and what is wrong."""
    path = as_path(directory) / SPEC
    try:
        return backend.from_json(json.loads(path.read_text()))
    except OSError as error:
        raise AloeError(f"{path}: cannot read the model's spec ({error.strerror})") from None
    except (ValueError, TypeError) as error:
        raise AloeError(f"{path}: not a model spec ({error})") from None


def checkpoint_steps(directory: str | Path) -> list[int]:
    """Steps of the finished checkpoints of a run, in order."""
    root = as_path(directory) / CHECKPOINTS
    if is_remote(root):
        return sorted(int(entry.parent.name) for entry in root.glob(f"*/{COMMITTED}") if entry.parent.name.isdigit())
    return sorted(int(entry.name) for entry in root.glob("*") if entry.name.isdigit() and (entry / PARAMS).is_dir())


def is_finished(directory: str | Path) -> bool:
    """Whether a run has reached its last step."""
    return (as_path(directory) / FINISHED).exists()


def save_adapter(directory: Path, model: config.Model) -> None:
    """Write adapter.json: that the run's checkpoints hold adapters only, of what kind, and to which model."""
    assert model.lora is not None and model.path is not None
    values = {"base": model.path, "base_fingerprint": fingerprint(model.path), "lora": model.lora.model_dump()}
    write_atomically(directory / ADAPTER, json.dumps(values, indent=1) + "\n")


def load_adapter(directory: str | Path) -> tuple[str, config.LoRA] | None:
    """The model and the kind of a run's adapters, None when the run trained all weights.

    Raises AloeError when adapter.json cannot be read, or when the model is gone or another than was trained on.
    """
    path = as_path(directory) / ADAPTER
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text())
        base, before = values["base"], values["base_fingerprint"]
        lora = config.LoRA.model_validate(values["lora"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AloeError(f"{path}: not the description of adapters ({error})") from None
    if not as_path(base).exists():
        raise AloeError(f"{path}: the adapters belong to {base}, which is not there; restore it")
    if fingerprint(base) != before:
        raise AloeError(f"{path}: {base} has changed since the adapters were trained on it; restore it")
    return base, lora


def load_run(
    directory: str | Path,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    compute: Compute | None = None,
    step: int | None = None,
    *,
    merge: bool = True,
) -> Decoder:
    """The model of a run at `step` (default: the newest), cast to `dtype`, each device reading its own shards.

    Where the run trained adapters, they are added to the weights of the model they belong to; with `merge` False
    the model comes with its adapters beside its weights (see lora.py). Raises AloeError when the run has no such
    checkpoint, when it holds another model than spec.json says, or when the adapters' model is not there.
    """
    spec = load_spec(directory)
    steps = checkpoint_steps(directory)
    if not steps or (step is not None and step not in steps):
        have = ", ".join(map(str, steps)) or "none"
        raise AloeError(f"{directory}: no checkpoint{'' if step is None else f' of step {step}'}; there are: {have}")
    path = absolute(directory) / CHECKPOINTS / str(step if step is not None else steps[-1]) / PARAMS
    adapter = load_adapter(directory)
    if adapter is None:
        params = _restore(path, weights(spec), mesh)
        return backend.assemble(spec, jax.tree.map(lambda x: x.astype(dtype), params), compute)
    from aloe_jax.models import load_pretrained

    base, lora = adapter
    described = {f"adapters.{name}": weight for name, weight in adapters(spec, lora).items()}
    values = _restore(path, described, mesh)["adapters"]
    model = with_adapters(load_pretrained(base, dtype, mesh, compute), lora, values)
    model.spec = ending(model.spec, spec.eos_ids)
    return merged(model) if merge else model


def _restore(path: Path, described: Mapping[str, Weight], mesh: Mesh | None) -> Any:
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of metadata that an item never has
    with ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.metadata(path).item_metadata.tree
        check_shapes(stored, {name: weight.shape for name, weight in described.items()}, path)
        return checkpointer.restore(path, _abstract(described, mesh, jax.tree.map(lambda leaf: leaf.dtype, stored)))


def _abstract(described: Mapping[str, Weight], mesh: Mesh | None, dtypes: Any) -> Any:
    """Shapes, types and places of all parameters: what a restore is told to make."""
    here = SingleDeviceSharding(jax.devices()[0])
    places = nested({name: here if mesh is None else weight_sharding(w, mesh) for name, w in described.items()})
    shapes = nested({name: weight.shape for name, weight in described.items()})
    return jax.tree.map(
        lambda shape, dtype, place: jax.ShapeDtypeStruct(shape, dtype, sharding=place),
        shapes,
        dtypes,
        places,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


def check_shapes(stored: Any, expected: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Raise AloeError naming the first parameter that a model and a checkpoint's metadata disagree on."""
    found = {
        ".".join(str(key.key) for key in keys): tuple(leaf.shape)
        for keys, leaf in jax.tree_util.tree_leaves_with_path(stored)
    }
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            raise AloeError(
                f"{path}: {name} is {found.get(name, 'missing')} there, {expected.get(name, 'unknown')} in the "
                "model: it is a checkpoint of another model"
            )
