"""What a checkpoint of MaxText's looks like from outside: without importing what reads one."""

from __future__ import annotations

from pathlib import Path

from aloe_jax.storage.files import as_path
from aloe_jax.storage.replacing import Kind

ITEMS = "items"  # name of the tree in a step's directory
TREE = "_METADATA"  # what Orbax writes beside every tree
SETTINGS = "maxtext.txt"  # in an export, the arguments that it is read by
# What earlier versions wrote had no digests.json.
KIND = Kind(
    "MaxText export",
    (r"0/.+", r"maxtext\.txt", r"tokenizer/[^/]+", r"README\.md"),
    (("README.md", "aloe-jax"), (SETTINGS, "load_parameters_path=")),
)


def items(path: str | Path) -> Path | None:
    """The tree in a checkpoint of MaxText's, given as STEP/items or as STEP; None where `path` is no such directory."""
    path = as_path(path)
    return next((place for place in (path, path / ITEMS) if (place / TREE).exists()), None)
