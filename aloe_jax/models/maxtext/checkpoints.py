"""MaxText's own Orbax checkpoints: parameters out of what its training saved, and into what it starts from.

A checkpoint is a directory STEP/items with a tree of arrays. The weights are under params/params; those that are no
nnx.Param are beside them in a collection of their own (params-only) or under nnx_aux/model (a whole training state).
The optimizer's state and random streams are not read.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from aloe_jax.data.tokenizer_files import TransformersTokenizer, save_tokenizer
from aloe_jax.errors import AloeError
from aloe_jax.models.maxtext.families import stretch
from aloe_jax.models.maxtext.shape import MaxTextShape
from aloe_jax.models.weights import Weight, flat, nested, weight_sharding
from aloe_jax.storage import integrity
from aloe_jax.storage.copies import uploading
from aloe_jax.storage.files import absolute, as_path, is_remote, write_atomically
from aloe_jax.storage.replacing import Kind, check_replaceable, replacing

if TYPE_CHECKING:
    from orbax.checkpoint import PyTreeCheckpointer

ITEMS = "items"  # name of the tree in a step's directory
TREE = "_METADATA"  # what Orbax writes beside every tree
SETTINGS = "maxtext.txt"  # in an export, the arguments that it is read by
# What earlier versions wrote had no digests.json.
KIND = Kind(
    "MaxText export",
    (r"0/.+", r"maxtext\.txt", r"tokenizer/[^/]+", r"README\.md"),
    (("README.md", "aloe-jax"), (SETTINGS, "load_parameters_path=")),
)
# Settings of MaxText's with which Llama 3.1's RoPE is stretched as MaxText itself does.
STRETCHED = SimpleNamespace(rope_use_scale=True, rope_factor=40, original_max_position_embeddings=4096)
COLLECTION = ("params", "params")  # of the weights in the tree
Keys = tuple[str, ...]  # of an array in the tree


def items(path: str | Path) -> Path | None:
    """The tree in a checkpoint of MaxText's, given as STEP/items or as STEP; None where `path` is no such directory."""
    path = as_path(path)
    return next((tree for tree in (path, path / ITEMS) if (tree / TREE).exists()), None)


def read_weights(path: str | Path, shape: MaxTextShape, dtype: str, mesh: Mesh | None) -> dict[str, jax.Array]:
    """The weights in a checkpoint by dotted name, in `dtype`, each device reading its own shards.

    Raises AloeError naming the first parameter that the checkpoint has in another shape than the model, or not at all,
    or that is not the model's.
    """
    directory = items(path)
    if directory is None:
        raise AloeError(f"{path}: no checkpoint of MaxText's; give the directory of a step, or items in it")
    check_alike(shape)
    advice = f"export or copy it again; if you changed it on purpose, delete {integrity.DIGESTS}"
    integrity.check(directory.parent.parent, advice, lambda name: name.startswith(f"0/{ITEMS}/"))
    described = shape.weights()
    keys = _check(directory, described)
    wanted = {
        name: jax.ShapeDtypeStruct(weight.shape, jnp.dtype(dtype), sharding=weight_sharding(weight, mesh))
        for name, weight in described.items()
    }
    return _restore(directory, keys, wanted)


def save(
    shape: MaxTextShape,
    weights: Mapping[str, jax.Array],
    path: str | Path,
    dtype: str,
    tokenizer: TransformersTokenizer | None = None,
    card: str = "",
) -> None:
    """Write `path`/0/items, which MaxText reads by load_parameters_path, with the settings to read it by beside it.

    maxtext.txt holds the model's settings as MaxText's commands take them, one a line; `tokenizer`, a transformers
    tokenizer, becomes `path`/tokenizer, and `card` README.md. What was written is read back and compared. An earlier
    export is replaced; raises AloeError when `path` holds anything else, or when what was read back differs.
    """
    from orbax.checkpoint import v1 as ocp

    check_alike(shape)
    path = as_path(path)
    if is_remote(path):  # Orbax writes a tree there whole or not at all
        check_replaceable(path, KIND)
    with contextlib.nullcontext(path) if is_remote(path) else replacing(path, KIND) as filled:
        directory = absolute(filled)
        kinds = shape.skeleton().collections
        keys = {name: (COLLECTION[0], kinds[name], *name.split(".")) for name in shape.weights()}
        values = {name: value.astype(dtype) for name, value in weights.items()}
        tree = nested({".".join(keys[name]): value for name, value in values.items()})
        logging.getLogger("absl").setLevel(logging.ERROR)
        noted = {"scan_layers": bool(shape.resolved.scan_layers)}  # which MaxText compares with its own
        ocp.save(directory / "0", tree, checkpointable_name=ITEMS, overwrite=True, custom_metadata=noted)
        for name, value in values.items():
            like = jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=value.sharding)
            if not bool(jnp.array_equal(_restore(directory / "0" / ITEMS, keys, {name: like})[name], value)):
                raise AloeError(
                    f"{path}: {name} read back differs from what was written; the disk may be full or failing"
                )
        if tokenizer is not None:
            with uploading(directory / "tokenizer") as local:
                save_tokenizer(tokenizer, local)
        lines = command_arguments(shape, dtype, f"{absolute(path)}/0/{ITEMS}")
        write_atomically(directory / SETTINGS, "\n".join(lines) + "\n")
        write_atomically(directory / "README.md", card)


def check_alike(shape: MaxTextShape) -> None:
    """Raise AloeError where MaxText would compute something else from the same weights and settings than we do.

    For some of Hugging Face's models its own RoPE is not theirs, and internals.py puts that right.
    """
    resolved = shape.resolved
    why = None
    llama = "llama3.1" in (resolved.rope_type.value, resolved.model_name[:8])
    if llama and stretch(resolved) not in (None, stretch(STRETCHED)):
        why = "RoPE stretched otherwise than Llama 3.1's, which is the one stretch that MaxText itself computes"
    if resolved.decoder_block.name == "OLMO3" and resolved.rope_type.value == "yarn":
        why = "RoPE stretched in full attention alone, where MaxText itself stretches that of windows too"
    if why is not None:
        raise AloeError(f"{shape.name}: has {why}; it goes to MaxText and back as a Hugging Face directory alone")


def command_arguments(shape: MaxTextShape, dtype: str, checkpoint: str) -> list[str]:
    """The arguments with which MaxText's commands read a checkpoint as this model.

    In a file of settings the model's own would win over them.
    """
    arguments = {"model_name": shape.name, "override_model_config": True, **dict(shape.settings), "weight_dtype": dtype}
    return [f"{key}={_written(value)}" for key, value in arguments.items()] + [f"load_parameters_path={checkpoint}"]


def _written(value: object) -> str:
    return f"[{','.join(map(_written, value))}]" if isinstance(value, tuple) else str(value)


def _check(directory: Path, described: Mapping[str, Weight]) -> dict[str, Keys]:
    """Where in the tree every weight is. Raises AloeError unless the tree has exactly these weights."""
    with _checkpointer() as checkpointer:
        stored = checkpointer.metadata(directory).item_metadata.tree
    shapes: dict[str, tuple[int, ...]] = {}
    found: dict[str, Keys] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(stored):
        keys = tuple(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)
        name = ".".join(keys[2:])
        if keys[:1] == COLLECTION[:1] or (keys[:2] == ("nnx_aux", "model") and name in described):
            found[name], shapes[name] = keys, tuple(leaf.shape)
    if not found:
        raise AloeError(
            f"{directory}: holds no {'/'.join(COLLECTION)}; give a checkpoint that MaxText's training saved"
        )
    for name in sorted(found.keys() | described.keys()):
        ours = described[name].shape if name in described else None
        if shapes.get(name) != ours:
            raise AloeError(
                f"{directory}: parameter {name} is {_said(shapes.get(name), 'missing')} there, "
                f"{_said(ours, 'unknown')} in the model of model.name and model.overrides; {_advice(found, described)}"
            )
    return found


def _said(shape: tuple[int, ...] | None, otherwise: str) -> str:
    return otherwise if shape is None else str(list(shape))


def _advice(found: Mapping[str, Keys], described: Mapping[str, Weight]) -> str:
    """What to set when the weights of a checkpoint are not the model's."""
    theirs, ours = (any(re.match(r"decoder\.\w*layers_\d+\.", name) for name in names) for names in (found, described))
    if theirs != ours:
        return f"set model.overrides.scan_layers to {str(not theirs).lower()}, as it was saved"
    return (
        "give the name and the settings that it was saved with (base_emb_dim, base_num_decoder_layers, vocab_size, …)"
    )


def _restore(
    directory: Path, keys: Mapping[str, Keys], wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    import orbax.checkpoint as ocp

    abstract = nested({".".join(keys[name]): shape for name, shape in wanted.items()})
    restore = ocp.args.PyTreeRestore(
        abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract), partial_restore=True
    )
    with _checkpointer() as checkpointer:
        found = flat(checkpointer.restore(directory, args=restore))
    return {name: found[".".join(keys[name])] for name in wanted}


def _checkpointer() -> PyTreeCheckpointer:
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of metadata that a tree never has
    return ocp.PyTreeCheckpointer()
