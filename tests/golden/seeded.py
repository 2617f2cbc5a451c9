"""Weights that every environment makes alike, so that golden models need no weight files.

They come from the raw output of PCG64, which NumPy promises not to change, by exact arithmetic.
"""

import json
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def tensor(key: str, shape: list[int], norm: float = 1.0) -> np.ndarray:
    """Uniform float32 values with a deviation of 0.3 (norms: around `norm`), a function of key and shape alone."""
    count = int(np.prod(shape))
    raw = np.random.PCG64(zlib.crc32(key.encode())).random_raw(count)
    values = ((raw >> 40).astype(np.float32) / np.float32(2**23) - np.float32(1)) * np.float32(0.5)
    return (values + np.float32(norm * ("norm" in key))).reshape(shape)


def checkpoint(golden: Path, directory: Path, norm: float = 1.0) -> Path:
    """A golden model's weights written out: a directory as transformers would have saved it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_bytes((golden / "config.json").read_bytes())
    shapes = json.loads((golden / "tensors.json").read_text())
    tensors = {key: tensor(key, shape, norm) for key, shape in shapes.items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
