"""The safetensors files of a model directory, mapped into memory: what is in them, checked before any of it is read."""

from __future__ import annotations

import functools
import json
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from aloe_jax.settings import shown
from aloe_jax.storage import integrity

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"  # keys of all families
ROWS = 4096  # of the two that are compared at once
PICKLES = ("pytorch_model*.bin", "consolidated*.pth", "*.pt", "*.ckpt")
DTYPES: dict[str, type[np.generic]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}


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


def read_json(path: Path) -> dict[str, JSON]:
    """The object in a JSON file. Raises AloeError naming the file."""
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise AloeError(f"{path}: not found; give the directory of a Hugging Face model") from None
    except (OSError, ValueError, RecursionError) as error:
        raise AloeError(f"{path}: cannot be read as JSON ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(values, dict):
        raise AloeError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def open_tensors(path: Path) -> dict[str, Stored]:
    """Every tensor of a model directory by its key: of the single file, or of all files that the index names.

    Where both are there the single file is read, as transformers does: an index without its shards was left behind.
    Raises AloeError naming the file that is missing, cut short, or lacks what the index says is in it.
    """
    wanted = indexed(path)
    if SINGLE not in wanted.values() and (path / SINGLE).is_file():
        if wanted and all((path / name).is_file() for name in wanted.values()):
            warn_once(f"{path}: has {SINGLE} beside the shards of {INDEX}; {SINGLE} is read")
        wanted = {}
    tensors: dict[str, Stored] = {}
    for name in sorted(set(wanted.values())) or [SINGLE]:
        file = path / name
        if not file.is_file():
            raise AloeError(f"{file}: not found{_why(path, bool(wanted))}")
        tensors |= _open(file)
    for key, name in wanted.items():
        if key not in tensors or tensors[key].file.name != name:
            raise AloeError(f"{path / name}: tensor {key} is missing, and {INDEX} says that it is in it; copy it again")
    return tensors


@functools.lru_cache
def warn_once(text: str) -> None:
    """Tell the person, the first time."""
    click.echo(text, err=True)


def indexed(path: Path) -> dict[str, str]:
    """The file of every tensor by the index; {} without one. Raises AloeError for a name that is not beside it."""
    file = path / INDEX
    if not file.exists():
        return {}
    found = read_json(file).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise AloeError(f"{file}: has no weight_map; copy it again")
    files = {}
    for key, name in found.items():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors") or "\0" in name:
            raise AloeError(
                f"{file}: says that tensor {shown(key)} is in {shown(name)}; expected a .safetensors file beside it"
            )
        files[key] = name
    return files


def other_head(path: Path) -> bool:
    """Whether the weights in `path` hold a head that is not their embedding; False where they are not there."""
    try:
        tensors = open_tensors(path)
    except AloeError:  # said when they are loaded
        return False
    head, embedding = tensors.get(HEAD), tensors.get(EMBEDDING)
    if head is None or embedding is None:
        return False
    if head.shape != embedding.shape or len(head.shape) != 2:  # what is no matrix is refused where it is loaded
        return head.shape != embedding.shape
    for start in range(0, len(head.array), ROWS):
        one, other = (tensor.array[start : start + ROWS] for tensor in (head, embedding))
        if not np.array_equal(one.astype(np.float32), other.astype(np.float32)):
            return True
        head.forget(one)
        embedding.forget(other)
    return False


def check_tensors(
    path: Path,
    tensors: Mapping[str, Stored],
    expected: Mapping[str, tuple[int, ...]],
    model: str,
    optional: str | None,
    hint: str = "",
) -> None:
    """Raise AloeError unless the files hold every expected tensor, in its shape, and no other but the `optional` one.

    `model` says what is expected ("a llama of 2 layers"), `hint` what the tensors are of, where that is known.
    """
    for key, shape in expected.items():
        if key not in tensors:
            raise AloeError(f"{path}: tensor {key} {list(shape)} is missing from the safetensors files{hint}")
        found = tensors[key]
        if found.dtype not in DTYPES:
            raise AloeError(f"{found.file}: tensor {key} is stored as {found.dtype}; supported: {', '.join(DTYPES)}")
        if found.shape != shape:
            raise AloeError(
                f"{found.file}: tensor {key} is {list(found.shape)}, config.json makes it {list(shape)}{hint}"
            )
    for key, found in tensors.items():
        if key not in expected and key != optional and not key.endswith("rotary_emb.inv_freq"):
            raise AloeError(f"{found.file}: tensor {key} is no part of a {model} by config.json{hint}")


def check_weights(path: Path) -> None:
    """Raise AloeError where weights are not as the export in `path` wrote them, by its digests.json.

    Weights of another size were replaced by somebody, and texts may have been edited: neither is damage.
    """
    try:
        _, files = integrity.recorded(path)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise AloeError(f"{path / integrity.DIGESTS}: cannot be read ({error}); delete it, or copy it again") from None

    def covered(name: str) -> bool:
        file = path / name
        return name.endswith(".safetensors") and file.is_file() and file.stat().st_size == files[name][0]

    advice = f"export or copy it again; if you changed the weights on purpose, delete {integrity.DIGESTS}"
    integrity.check(path, advice, covered)


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
    except (SafetensorError, OSError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise AloeError(f"{file}: not a whole safetensors file ({why}); copy it again") from None
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
