"""What tells one version of a model directory from another, without reading its weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def fingerprint(path: str | Path) -> str:
    """Changes when a model directory's files do: the names, sizes and times of what would be loaded.

    Of a run directory that is its newest checkpoint, so that training on makes it another model.
    """
    root = Path(path)
    if (root / "config.json").is_file():
        files = [file for file in root.iterdir() if file.is_file()]
    else:
        steps = [entry for entry in root.glob("checkpoints/*") if entry.name.isdigit()]
        newest = max(steps, key=lambda entry: int(entry.name), default=root / "checkpoints")
        files = [root / "spec.json", *root.glob("tokenizer/*"), *newest.rglob("*")]
    stats = [(str(file.relative_to(root)), file.stat()) for file in files if file.is_file()]
    content = sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
