"""What tells one version of a model directory from another, without reading its weights."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from aloe_jax.files import as_path, is_remote, versions


def fingerprint(path: str | Path) -> str:
    """Changes when a model directory's files do: the names, sizes and times of what would be loaded.

    Of a run directory that is its newest checkpoint, so that training on makes it another model.
    """
    root = as_path(path)
    if is_remote(root):
        return _of_content(_in_bucket(root))
    if (root / "config.json").is_file():
        files = [file for file in root.iterdir() if file.is_file()]
    else:
        steps = [entry for entry in root.glob("checkpoints/*") if entry.name.isdigit()]
        newest = max(steps, key=lambda entry: int(entry.name), default=root / "checkpoints")
        files = [root / "spec.json", *root.glob("tokenizer/*"), *newest.rglob("*")]
    stats = [(str(file.relative_to(root)), file.stat()) for file in files if file.is_file()]
    return _of_content([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def _in_bucket(root: Path) -> list[tuple[str, int, str]]:
    """The same files in a bucket, where every version of an object has a number."""
    found = versions(root)
    if "config.json" in found:
        return [(name, *version) for name, version in found.items() if "/" not in name]
    steps = {int(name.split("/")[1]) for name in found if re.match(r"checkpoints/\d+/", name)}
    newest = f"checkpoints/{max(steps)}/" if steps else "checkpoints/"
    return [(name, *found[name]) for name in found if name == "spec.json" or name.startswith(("tokenizer/", newest))]


def _of_content(content: Sequence[tuple[str, int, int | str]]) -> str:
    return hashlib.sha256(json.dumps(sorted(content)).encode()).hexdigest()[:16]
