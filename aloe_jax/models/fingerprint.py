"""What distinguishes one model from another: the content of the files that it would be loaded from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from aloe_jax.errors import AloeError
from aloe_jax.models.known_digests import digests
from aloe_jax.storage.copies import versions
from aloe_jax.storage.files import as_path, bucket_errors, is_remote, store_of
from aloe_jax.storage.integrity import DIGESTS

BY_TIMES = 16  # hex digits of a fingerprint of the kind that earlier versions recorded; today's are longer
_READ = (".json", ".safetensors", ".jinja", ".model", ".txt")  # of a Hugging Face directory: not its cards and licences
_RUN = ("spec.json", "adapter.json")


def fingerprint(path: str | Path) -> str:
    """32 hex digits that change with what would be loaded: weights, config, tokenizer, chat template.

    They are the same for a copy. Of a run directory that is its newest checkpoint, so that training on makes it
    another model. Large files are read once (known_digests.py); of a bucket's objects the store knows the digests.
    Raises AloeError when a file cannot be read.
    """
    root = as_path(path)
    if is_remote(root):
        found = _in_bucket(root)
        return _of_content([(name, found[name]) for name in _chosen(found)])[:32]
    try:
        try:
            return _local(root)
        except FileNotFoundError:  # a run that trains on has deleted its checkpoint: there is a newer one
            return _local(root)
    except OSError as error:
        raise AloeError(f"{error.filename or root}: cannot be read ({error.strerror})") from None


def _local(root: Path) -> str:
    everything = {file.relative_to(root).as_posix(): file for file in root.rglob("*") if file.is_file()}
    return _of_content(sorted(digests({name: everything[name] for name in _chosen(everything)}).items()))[:32]


def _chosen(names: Iterable[str]) -> list[str]:
    """The names that a model is loaded from, among those of all files below its directory."""
    names = sorted(names)
    if "config.json" in names or ("spec.json" not in names and "tokenizer_config.json" in names):
        return [name for name in names if "/" not in name and name.endswith(_READ) and name != DIGESTS]
    if "spec.json" not in names and not any(name.startswith("checkpoints/") for name in names):
        return names  # a checkpoint of MaxText's
    steps = {int(found[1]) for name in names if (found := re.match(r"checkpoints/(\d+)/params/", name))}
    newest = f"checkpoints/{max(steps)}/params/" if steps else "checkpoints/"
    return [name for name in names if name in _RUN or name.startswith(("tokenizer/", newest))]


def _in_bucket(root: Path) -> dict[str, str]:
    """The store's own digest of every object below a path."""
    store, place = store_of(root)
    with bucket_errors(root, "read"):
        found = store.find(place, detail=True)
    below = {name.removeprefix(f"{place}/"): info for name, info in found.items() if name.startswith(f"{place}/")}
    return {
        name: f"{info['size']} {info.get('md5Hash') or info.get('crc32c') or info['generation']}"
        for name, info in below.items()
    }


def fingerprint_by_times(path: str | Path) -> str:
    """The fingerprint that earlier versions recorded: of names, sizes and times, which a copy does not keep."""
    root = as_path(path)
    if is_remote(root):
        return _of_content(_versions_in_bucket(root))[:BY_TIMES]
    if (root / "config.json").is_file():
        files = [file for file in root.iterdir() if file.is_file()]
    else:
        steps = [entry for entry in root.glob("checkpoints/*") if entry.name.isdigit()]
        newest = max(steps, key=lambda entry: int(entry.name), default=root / "checkpoints")
        files = [root / "spec.json", *root.glob("tokenizer/*"), *newest.rglob("*")]
    stats = [(str(file.relative_to(root)), file.stat()) for file in files if file.is_file()]
    return _of_content([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])[:BY_TIMES]


def _versions_in_bucket(root: Path) -> list[tuple[str, int, str]]:
    found = versions(root)
    if "config.json" in found:
        return [(name, *version) for name, version in found.items() if "/" not in name]
    steps = {int(name.split("/")[1]) for name in found if re.match(r"checkpoints/\d+/", name)}
    newest = f"checkpoints/{max(steps)}/" if steps else "checkpoints/"
    return [(name, *found[name]) for name in found if name == "spec.json" or name.startswith(("tokenizer/", newest))]


def _of_content(content: Sequence[tuple[str | int, ...]]) -> str:
    return hashlib.sha256(json.dumps(sorted(content)).encode()).hexdigest()
