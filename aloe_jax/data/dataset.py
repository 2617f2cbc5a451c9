"""Stored personas and conversations, read from TFDS directories or JSONL files and validated."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from aloe_jax.conversation import Conversation, Persona
from aloe_jax.data.records import json_records
from aloe_jax.data.tfds_records import restored
from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from aloe_jax.storage.copies import local_copy

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

# Records per read: one call into the reader for many records is quicker than one each.
CHUNK = 256


def read_conversations(path: str | Path, split: str = "train", limit: int | None = None) -> list[Conversation]:
    """Read conversations in stored order, at most `limit` of them.

    `path` is a TFDS directory (…/aloe_trees/1.0.0) or a JSONL file with a conversation a line; for a JSONL
    file the split `validation` is its sibling NAME.validation.jsonl where there is one, else the file itself.
    Raises AloeError naming the file and the record when something is missing, empty or damaged.
    """
    return [Conversation.parse(record, where) for where, record in read_records(local_copy(path), split, limit)]


def read_personas(path: str | Path, split: str = "benchmark", limit: int | None = None) -> list[Persona]:
    """Read personas in stored order (profile by profile), at most `limit` of them.

    `path` is a TFDS directory (…/aloe_personas/1.0.0) or a JSONL file with a persona a line.
    Raises AloeError as `read_conversations` does.
    """
    stored_only = {"profile_id", "personality_id"}  # which the id spells out again
    return [
        Persona.parse({key: value for key, value in record.items() if key not in stored_only}, where)
        for where, record in read_records(local_copy(path), split, limit)
    ]


def fingerprint(path: str | Path) -> str:
    """A hex digest of the content of every file of the data set, so that any change to the data changes it.

    Raises AloeError when `path` is missing.
    """
    path = local_copy(path)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
    else:
        files = [file for file in (path, _sibling(path, "validation")) if file.is_file()]
    if not files:
        raise AloeError(_missing(path))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\0".encode())
    return digest.hexdigest()


def has_split(path: str | Path, split: str) -> bool:
    """Whether a TFDS directory has the split, or a JSONL file a sibling NAME.SPLIT.jsonl. Raises AloeError."""
    path = local_copy(path)
    if path.is_dir():
        return split in _builder(path).info.splits
    return _sibling(path, split).is_file()


def read_records(path: Path, split: str, limit: int | None = None) -> Iterator[tuple[str, dict[str, JSON]]]:
    """Yield (file and record, plain dict) as `read_conversations` finds them; raises AloeError when there is none."""
    if path.is_dir():
        records = _tfds_records(path, split, limit)
    elif path.is_file():
        sibling = _sibling(path, split)
        records = json_records(sibling if sibling.is_file() else path, limit)
    else:
        raise AloeError(_missing(path))
    empty = True
    for item in records:
        empty = False
        yield item
    if empty:
        remedy = "write it again with `python -m datagen build --config FILE`" if path.is_dir() else "give another file"
        raise AloeError(f"{path}: holds no records; {remedy}")


def _sibling(path: Path, split: str) -> Path:
    return path.with_name(f"{path.stem}.{split}{path.suffix}")


def _missing(path: Path) -> str:
    name = "aloe_personas" if "personas" in str(path) else "aloe_trees"
    return (
        f"{path}: no such data set; give a JSONL file or a TFDS directory such as OUTPUT/tfds/{name}/1.0.0, "
        "which `python -m datagen build --config configs/datagen/scripted.yaml` writes"
    )


def _tfds_records(path: Path, split: str, limit: int | None) -> Iterator[tuple[str, dict[str, JSON]]]:
    source, shards = _open(path, split)
    total = len(source) if limit is None else min(len(source), limit)
    for start in range(0, total, CHUNK):
        indices = range(start, min(start + CHUNK, total))
        try:
            chunk = [restored(record) for record in source.__getitems__(list(indices))]
        except Exception:  # whatever is damaged, find out which record it is
            chunk = [_one_record(source, index, shards) for index in indices]
        for index, record in zip(indices, chunk, strict=True):
            yield _named(shards, index), record


def _builder(path: Path) -> tfds.core.DatasetBuilder:
    if not (path / "dataset_info.json").is_file():
        raise AloeError(f"{path}: a directory without dataset_info.json; {_missing(path).partition('; ')[2]}")
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise AloeError(
            f"{path}: reading a TFDS directory needs tensorflow-datasets ({error}); "
            "install it, or give a JSONL file of the same records"
        ) from None
    try:
        return tfds.builder_from_directory(path)
    except Exception as error:  # TFDS raises another type for every kind of damage
        raise AloeError(f"{path}: cannot be opened ({_first_line(error)}); {_BUILD_AGAIN}") from None


Shards = list[tuple[Path, int]]  # file and number of records


def _open(path: Path, split: str) -> tuple[tfds.core.data_sources.BaseDataSource, Shards]:
    """The records of a split in random access, and the files that hold them."""
    builder = _builder(path)
    splits = builder.info.splits
    try:
        if split in splits:
            files = [Path(file) for file in splits[split].filepaths]
            return builder.as_data_source(split), list(zip(files, splits[split].shard_lengths, strict=True))
    except Exception as error:  # TFDS raises another type for every kind of damage
        raise AloeError(f"{path}: cannot be opened ({_first_line(error)}); {_BUILD_AGAIN}") from None
    raise AloeError(f"{path}: has no split {split!r}, only {', '.join(splits)}")


_BUILD_AGAIN = "the journal is the truth: `python -m datagen build --config FILE` writes it again"


def _one_record(source: tfds.core.data_sources.BaseDataSource, index: int, shards: Shards) -> dict[str, JSON]:
    try:
        return restored(source[index])
    except Exception as error:
        raise AloeError(f"{_named(shards, index)}: damaged ({_first_line(error)}); {_BUILD_AGAIN}") from None


def _named(shards: Shards, index: int) -> str:
    """The file that holds record `index` of the split, and the record's number in that file, from 0."""
    for file, length in shards:
        if index < length:
            return f"{file} record {index}"
        index -= length
    raise IndexError(index)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
