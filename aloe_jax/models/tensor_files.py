"""The safetensors files of a model directory, mapped into memory: what is in them, checked before any of it is read."""

from __future__ import annotations

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from aloe_jax.errors import AloeError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = ("pytorch_model*.bin", "consolidated*.pth", "*.pt", "*.ckpt")
DTYPES: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Stored:
    """One tensor in a file. `array` is a view of the mapped file: reading it reads the disk.

    A type that is not in DTYPES shows as bytes.
    """

    file: Path
    key: str
    dtype: str  # as safetensors writes it
    array: np.ndarray
    mapping: mmap.mmap
    start: int  # its first byte in the file

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored: a matrix is [outputs, inputs]."""
        return self.array.shape

    def forget(self, part: np.ndarray) -> None:
        """Give back the memory that reading `part`, a view of the array, took; it may be read again."""
        if part.size and hasattr(self.mapping, "madvise"):
            low, high = np.lib.array_utils.byte_bounds(part)
            begin = self.start + low - self.array.ctypes.data
            page = begin % mmap.PAGESIZE
            self.mapping.madvise(mmap.MADV_DONTNEED, begin - page, high - low + page)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises AloeError naming the file."""
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise AloeError(f"{path}: not found; give the directory of a Hugging Face model") from None
    except (OSError, ValueError) as error:
        raise AloeError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(values, dict):
        raise AloeError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def open_tensors(path: Path) -> dict[str, Stored]:
    """Every tensor of a model directory by its key: of all files that the index names, or of the single one.

    Raises AloeError naming the file that is missing, cut short, or lacks what the index places in it.
    """
    wanted: dict[str, str] = {}
    if (path / INDEX).exists():
        found = read_json(path / INDEX).get("weight_map")
        if not isinstance(found, dict):
            raise AloeError(f"{path / INDEX}: has no weight_map")
        wanted = found
    tensors: dict[str, Stored] = {}
    for name in sorted(set(wanted.values())) or [SINGLE]:
        file = path / name
        if not file.is_file():
            raise AloeError(f"{file}: not found{_why(path, bool(wanted))}")
        tensors |= _open(file)
    for key, name in wanted.items():
        if key not in tensors or tensors[key].file.name != name:
            raise AloeError(f"{path / name}: tensor {key} is missing, and {INDEX} places it there; copy it again")
    return tensors


def _why(path: Path, indexed: bool) -> str:
    if indexed:
        return f", and {INDEX} names it; copy the whole model directory"
    pickles = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
    if pickles:
        return (
            f", only {pickles[0]}, a pickle: reading one runs the code in it, so it is refused; convert it where you "
            "trust it, with transformers: AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)"
        )
    return ", and only safetensors weights are read; copy the whole model directory"


def _open(file: Path) -> dict[str, Stored]:
    try:
        with safe_open(str(file), "np"):  # checks the header against the size of the file
            pass
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length))
            mapping = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except (SafetensorError, OSError, ValueError) as error:
        raise AloeError(f"{file}: not a whole safetensors file ({error}); copy it again") from None
    tensors = {}
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        known = entry["dtype"] in DTYPES
        shape = entry["shape"] if known else [last - first]
        start = 8 + length + first
        array = np.frombuffer(mapping, DTYPES.get(entry["dtype"], np.uint8), math.prod(shape), start).reshape(shape)
        tensors[key] = Stored(file, key, entry["dtype"], array, mapping, start)
    return tensors
