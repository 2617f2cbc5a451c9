"""Data sets of a mixture: of which kind they are, which conversations are held out, and reading them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Literal

import numpy as np

from aloe_jax.conversation import shown
from aloe_jax.data.chats import ends_unanswered, read_chat
from aloe_jax.data.dataset import has_split, read_conversations, read_records
from aloe_jax.data.messages import MessageTree
from aloe_jax.data.preferences import Forest, read_comparison
from aloe_jax.data.settings import DataSettings, SourceSettings
from aloe_jax.errors import AloeError
from aloe_jax.storage.copies import local_copy

Kind = Literal["trees", "chat", "preferences"]
Split = Literal["train", "validation"]
CHAT_PAIRS = ({"prompt", "completion"}, {"instruction", "output"})  # fields that make a record a chat


@dataclass(frozen=True)
class SplitSource:
    """The conversations of one split of a source."""

    kind: Kind
    count: int
    trees: Iterator[MessageTree]
    remarks: tuple[str, ...]  # what a person should know about how they were read
    unused: tuple[str, ...] = ()  # fields of the records that are passed over


def open_source(source: SourceSettings, split: Split, data: DataSettings) -> SplitSource:
    """Validate every record that a split of a source is taken from, then give its conversations.

    A source without a validation split of its own has `data.validation_fraction` of its conversations held out (see
    `held_out`). Of a validation split the first `data.validation_limit` conversations are given. Raises AloeError
    naming file, record and field of the first fault.
    """
    kind = kind_of(source)
    own = has_split(source.path, "validation")
    stored: Split = split if own else "train"
    limit = source.limit if stored == "train" else None
    read = {"trees": _open_trees, "chat": _open_chats, "preferences": _open_preferences}[kind]
    digests, trees, remarks, unused = read(local_copy(source.path), stored, limit)
    chosen = np.ones(len(digests), bool)
    if not own:
        held = held_out(digests, data.validation_fraction, source.path)
        chosen = held if split == "validation" else ~held
    if split == "validation":
        given = chosen & (np.cumsum(chosen) <= (data.validation_limit or len(chosen)))
        if not own:
            remarks = [  # the others were shown with the train split
                f"{source.path}: has no validation split: {held.sum()} of {len(held)} conversations are held out "
                f"(data.validation_fraction), {given.sum()} of them used (data.validation_limit)"
            ]
        chosen = given
        unused = dict.fromkeys(unused) if own else {}
    return SplitSource(kind, int(chosen.sum()), compress(trees, chosen), tuple(remarks), tuple(unused))


def read_trees(source: SourceSettings) -> Iterator[MessageTree]:
    """All conversations of a source's train split, whatever its kind. Raises AloeError as `open_source` does."""
    read = {"trees": _open_trees, "chat": _open_chats, "preferences": _open_preferences}[kind_of(source)]
    return read(local_copy(source.path), "train", source.limit)[1]


def kind_of(source: SourceSettings) -> Kind:
    """What a source holds: as configured, or as its first record shows. Raises AloeError when that is unclear."""
    directory = local_copy(source.path).is_dir()
    if source.format != "auto":
        if directory and source.format != "trees":
            raise AloeError(f"{source.path}: a TFDS directory holds conversation trees; give {source.format} as JSONL")
        return source.format
    if directory:
        return "trees"
    where, record = next(read_records(local_copy(source.path), "train", 1))
    fields = {name for name, value in record.items() if value is not None}
    if {"chosen", "rejected"} & fields:
        return "preferences"
    if {"profile", "personality"} <= fields:
        raise AloeError(
            f"{where}: is in the published ALOE format; convert the file with "
            f"`python -m datagen convert {source.path} ours.jsonl --from aloe --to ours`"
        )
    if {"messages", "conversations"} & fields or any(pair <= fields for pair in CHAT_PAIRS):
        return "chat"
    if {"persona", "turns"} & fields:
        return "trees"
    names = sorted(map(shown, fields))
    several = ", ".join(names[:12]) + (", …" if len(names) > 12 else "") if names else "none"
    raise AloeError(
        f"{where}: its fields ({several}) are not those of a conversation tree (persona, turns), a chat (messages, "
        "conversations, prompt and completion, or instruction and output) or a preference (prompt, chosen, rejected); "
        "rename them, or mend the file"
    )


def held_out(digests: Sequence[bytes], fraction: float, path: str) -> np.ndarray:
    """Which records are held out, bool [N]: those whose digest is in the first `fraction` of all digests.

    A record's side depends on its content alone, so that further records do not move it; only where that would leave
    one side without any record, the one with the smallest or largest digest goes over. Raises AloeError when all
    records are the same.
    """
    values = np.array([int.from_bytes(digest[:8], "big") for digest in digests], np.uint64)
    if values.min() == values.max():
        raise AloeError(
            f"{path}: nothing can be held out of {len(digests)} record(s) that all begin alike; "
            "give a validation split (NAME.validation.jsonl beside NAME.jsonl) or more records"
        )
    held = values < np.uint64(min(fraction * 2.0**64, 2.0**64 - 2048))
    return (held | (values == values.min())) & (values < values.max()) if held.all() or not held.any() else held


# ---------------------------------------------------------------- readers


# Digests, conversations, remarks, unused fields.
Opened = tuple[list[bytes], Iterator[MessageTree], list[str], dict[str, None]]


def _open_trees(path: Path, split: str, limit: int | None) -> Opened:
    conversations = read_conversations(path, split, limit)
    digests = [_digest(conversation.to_json()) for conversation in conversations]
    return digests, map(MessageTree.of, conversations), [], {}


def _open_chats(path: Path, split: str, limit: int | None) -> Opened:
    """Reads the file twice, so that a fault at its end is found first and its texts need not be kept in memory."""
    digests: list[bytes] = []
    unanswered = unlearned = 0
    unused: dict[str, None] = {}
    for where, record in read_records(path, split, limit):
        chat = read_chat(record, where, unused)
        # The name of the last reply is a digest of the whole chat.
        digests.append(bytes.fromhex(chat.exchanges[-1].replies[0].name))
        unanswered += ends_unanswered(record)
        unlearned += all(exchange.replies[0].branch is None for exchange in chat.exchanges)
    remarks = [f"{path}: {unanswered} chats end with a user message, which is left out"] if unanswered else []
    if unlearned:
        remarks.append(f"{path}: {unlearned} chats have no reply that is to be learned from, and are left out")
    return digests, (read_chat(record, where) for where, record in read_records(path, split, limit)), remarks, unused


def _open_preferences(path: Path, split: str, limit: int | None) -> Opened:
    unused: dict[str, None] = {}
    forest = Forest(read_comparison(record, where, unused) for where, record in read_records(path, split, limit))
    return forest.digests(), forest.trees(), [], unused


def _digest(text: str) -> bytes:
    return hashlib.blake2s(text.encode(), digest_size=8).digest()
