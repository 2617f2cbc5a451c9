"""A training run's directory as a model: spec.json, tokenizer/ and checkpoints/STEP/params; adapter.json with LoRA.

Reading a model from a run touches the parameters only, never the optimizer state.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import jax
from jax.sharding import Mesh

from aloe_jax.errors import AloeError
from aloe_jax.models.backends import implementation
from aloe_jax.models.checkpoint_files import CHECKPOINTS, PARAMS, checkpoint_steps, only_params, reading
from aloe_jax.models.fingerprint import BY_TIMES, fingerprint, fingerprint_by_times
from aloe_jax.models.finite import not_finite
from aloe_jax.models.settings import LoRASettings, ModelSettings
from aloe_jax.models.spec import Compute, LanguageModel, ModelSpec
from aloe_jax.models.weights import Tree, Weight, flat, nested, weight_sharding
from aloe_jax.storage.files import absolute, as_path, is_remote, write_atomically
from aloe_jax.storage.integrity import DIGESTS, check, record

SPEC = "spec.json"
ADAPTER = "adapter.json"  # beside spec.json where a run trains adapters: what they belong to
FINISHED = "finished.json"  # in a run that reached its last step: training also ends well when it was stopped
TOKENIZER = "tokenizer"


def save_spec(spec: ModelSpec, directory: Path) -> None:
    """Write spec.json."""
    write_atomically(directory / SPEC, json.dumps(spec.to_json(), indent=1) + "\n")


def load_spec(directory: str | Path) -> ModelSpec:
    """Read spec.json. Raises AloeError naming the file and what is wrong."""
    path = as_path(directory) / SPEC
    try:
        values = json.loads(path.read_text())
        spec = implementation(values.get("backend", "native")).from_json(values)
    except OSError as error:
        raise AloeError(f"{path}: cannot read the model's spec ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise AloeError(f"{path}: not a model spec ({' '.join(str(error).split())[:200]})") from None
    check_description(directory, SPEC)
    return spec


def record_description(directory: Path) -> None:
    """Record the digests of what makes a run a model besides its checkpoints. Not in a bucket."""
    if not is_remote(directory):
        record(directory, lambda name: name in (SPEC, ADAPTER) or name.startswith(f"{TOKENIZER}/"))


def forget_description(directory: Path) -> None:
    """Take the digests away while those files are written anew."""
    if not is_remote(directory):
        (directory / DIGESTS).unlink(missing_ok=True)


def check_description(directory: str | Path, names: str) -> None:
    """Raise AloeError where one of the files that begin with `names` is not as the run wrote it."""
    root = as_path(directory)
    if not is_remote(root):
        remedy = f"restore it, or delete {root / DIGESTS} if it was changed on purpose"
        check(root, remedy, lambda name: name.startswith(names))


def is_finished(directory: str | Path) -> bool:
    """Whether a run has reached its last step."""
    return (as_path(directory) / FINISHED).exists()


def save_adapter(directory: Path, model: ModelSettings) -> None:
    """Write adapter.json: that the run's checkpoints hold adapters only, of what kind, and to which model."""
    assert model.lora is not None and model.path is not None
    values = {"base": model.path, "base_fingerprint": fingerprint(model.path), "lora": model.lora.model_dump()}
    write_atomically(directory / ADAPTER, json.dumps(values, indent=1) + "\n")


def load_adapter(directory: str | Path) -> tuple[str, LoRASettings] | None:
    """The model and the kind of a run's adapters, None when the run trained all weights.

    Raises AloeError when adapter.json cannot be read, or when the model is gone or another than was trained on.
    """
    path = as_path(directory) / ADAPTER
    if not path.exists():
        check_description(directory, ADAPTER)  # is it meant to be there?
        return None
    try:
        values = json.loads(path.read_text())
        base, before = str(values["base"]), str(values["base_fingerprint"])
        lora = LoRASettings.model_validate(values["lora"])
        there = as_path(base).exists()
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise AloeError(f"{path}: not the description of adapters ({reason})") from None
    check_description(directory, ADAPTER)
    if not there:
        raise AloeError(f"{path}: the adapters belong to {base}, which is not there; restore it")
    if len(before) == BY_TIMES:
        if fingerprint_by_times(base) != before:
            click.echo(
                f"{path}: an earlier version recorded names, sizes and times of {base}, and they have changed: "
                "whether it is still the model that the adapters were trained on cannot be verified",
                err=True,
            )
    elif (now := fingerprint(base)) != before:
        raise AloeError(
            f"{path}: {base} has changed since the adapters were trained on it (the digest of its files was {before}, "
            f"now it is {now}); restore it"
        )
    return base, lora


def read_run(
    directory: str | Path,
    dtype: str,
    mesh: Mesh | None,
    compute: Compute | None,
    step: int | None,
    load_base: Callable[[str], LanguageModel],
) -> LanguageModel:
    """The model of a run at `step`; where it trained adapters, with them, around the model that `load_base` loads.

    See opening.load_run.
    """

    def read(step: int) -> LanguageModel:
        spec = load_spec(directory)
        check_description(directory, f"{TOKENIZER}/")
        path = absolute(directory) / CHECKPOINTS / str(step) / PARAMS
        adapter = load_adapter(directory)
        if adapter is None:
            with reading(directory, step, only_params):
                params = _restore(path, spec.weights(), mesh)
            return spec.assemble(jax.tree.map(lambda x: x.astype(dtype), params), compute)
        base, lora = adapter
        with reading(directory, step, only_params):
            values = flat(_restore(path, spec.trained(lora), mesh))
        adapters = {name.removeprefix("adapters."): value for name, value in values.items()}
        model = load_base(base).with_adapters(lora, adapters)
        model.spec = model.spec.ending(spec.eos_ids)
        return model

    while True:
        steps = checkpoint_steps(directory)
        if not steps or (step is not None and step not in steps):
            have = ", ".join(map(str, steps)) or "none"
            missing = "" if step is None else f" of step {step}"
            raise AloeError(f"{directory}: no checkpoint{missing}; there are: {have}")
        chosen = steps[-1] if step is None else step
        try:
            return read(chosen)
        except Exception:
            # A run that trains on deletes what it no longer keeps: then there is a newer one.
            newest = max(checkpoint_steps(directory), default=chosen)
            if step is not None or newest <= chosen or jax.process_count() > 1:
                raise


def _restore(path: Path, described: Mapping[str, Weight], mesh: Mesh | None) -> Tree[jax.Array]:
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of metadata that an item never has
    with ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.metadata(path).item_metadata.tree
        check_shapes(stored, {name: weight.shape for name, weight in described.items()}, path)
        types = {name: leaf.dtype for name, leaf in flat(stored).items()}
        wanted = {
            name: jax.ShapeDtypeStruct(weight.shape, types[name], sharding=weight_sharding(weight, mesh))
            for name, weight in described.items()
        }
        restored = checkpointer.restore(path, nested(wanted))
    if (name := not_finite(restored)) is not None:
        raise AloeError(
            f"{path}: {name} has values that are not finite: the training diverged; take an older checkpoint"
        )
    return restored


def check_shapes(stored: object, expected: Mapping[str, tuple[int, ...]], path: Path) -> None:
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
