"""What distinguishes one model from another: the content of the files that it would be loaded from.

The digest of a large file is remembered, so that it is not read again at every start. It counts for the file as long as
its path, size, times and inode are the same, as Git has it. Digests are stored in ~/.cache/aloe-jax/digests, or below
XDG_CACHE_HOME.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aloe_jax.errors import AloeError
from aloe_jax.storage.copies import cache_directory, objects, versions
from aloe_jax.storage.files import as_path, is_remote, write_atomically
from aloe_jax.storage.integrity import DIGESTS, digest_file

BY_TIMES = 16  # hex digits of a fingerprint of the kind that earlier versions recorded; today's are longer
_READ = (".json", ".safetensors", ".jinja", ".model", ".txt")  # of a Hugging Face directory: not its cards and licences
_RUN = ("spec.json", "adapter.json")
SMALL = 2**20  # bytes: what is quickly read is always read
SETTLED = 3.0  # seconds since a file's last change: after that a further change shows in its times
_THREADS = 4


def fingerprint(path: str | Path) -> str:
    """32 hex digits that change with what would be loaded: weights, config, tokenizer, chat template.

    They are the same for a copy. Of a run directory that is its newest checkpoint, so that training on makes it
    another model. Large files are read once; of a bucket's objects the store knows the digests.
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
    chosen = _chosen(everything)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(_digest, [everything[name] for name in chosen])
        return _of_content(list(zip(chosen, found, strict=True)))[:32]


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
    return {
        name: f"{info['size']} {info.get('md5Hash') or info.get('crc32c') or info['generation']}"
        for name, info in objects(root).items()
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


def _digest(file: Path) -> str:
    """SHA-256 in hex of a local file. Raises OSError where it cannot be read."""
    before = _state(file)
    if before["bytes"] <= SMALL:
        return digest_file(file)
    try:
        note = _note(file)
    except AloeError:  # nowhere to remember it: a user without a home directory, as in some containers
        return digest_file(file)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(note.read_bytes())
        if known["state"] == before and re.fullmatch(r"[0-9a-f]{64}", known["sha256"]):
            return known["sha256"]
    read_at = time.time()
    found = digest_file(file)
    if _state(file) == before and read_at - max(before["changed"], before["modified"]) / 1e9 > SETTLED:
        with contextlib.suppress(OSError):  # nowhere to write: then it is read again
            note.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(note, json.dumps({"path": str(file.resolve()), "state": before, "sha256": found}) + "\n")
    return found


def _state(file: Path) -> dict[str, int]:
    stat = file.stat()
    return {
        "bytes": stat.st_size,
        "modified": stat.st_mtime_ns,
        "changed": stat.st_ctime_ns,
        "inode": stat.st_ino,
        "device": stat.st_dev,
    }


def _note(file: Path) -> Path:
    name = hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:32]
    return cache_directory() / "digests" / f"{name}.json"
