"""Data sets of a mixture: of which kind they are, which conversations are held out, and reading them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aloe_jax.conversation import Persona, shown
from aloe_jax.data.chats import ends_unanswered, read_chat
from aloe_jax.data.dataset import has_split, read_conversations, read_records
from aloe_jax.data.holding_out import held_out, held_out_by_profile
from aloe_jax.data.messages import MessageTree
from aloe_jax.data.people import People, is_recorded, text_digest
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
    people: People = field(default_factory=People)


def open_source(source: SourceSettings, split: Split, data: DataSettings) -> SplitSource:
    """Validate every record that a split of a source is taken from, then give its conversations.

    A source without a validation split of its own has `data.validation_fraction` of its conversations held out, by
    profile where its records have personas and `data.validation_by` does not say otherwise (see holding_out.py). Of a
    validation split the first `data.validation_limit` conversations are given. Raises AloeError naming file, record
    and field of the first fault.
    """
    kind = kind_of(source)
    own = has_split(source.path, "validation")
    stored: Split = split if own else "train"
    limit = source.limit if stored == "train" else None
    read = {"trees": _open_trees, "chat": _open_chats, "preferences": _open_preferences}[kind]
    opened = read(local_copy(source.path), stored, limit)
    remarks, unused = opened.remarks, opened.unused
    chosen = np.ones(len(opened.digests), bool)
    if not own:
        held, how = _hold_out(opened, data, source.path)
        chosen = held if split == "validation" else ~held
    if split == "validation":
        given = chosen & (np.cumsum(chosen) <= (data.validation_limit or len(chosen)))
        if not own:
            remarks = [  # the others were shown with the train split
                f"{source.path}: has no validation split: {how} (data.validation_fraction), {given.sum()} of them used "
                "(data.validation_limit)"
            ]
        chosen = given
        unused = unused if own else {}
    people = People.of(compress(opened.personas, chosen))
    return SplitSource(kind, int(chosen.sum()), compress(opened.trees, chosen), tuple(remarks), tuple(unused), people)


def read_trees(source: SourceSettings) -> Iterator[MessageTree]:
    """All conversations of a source's train split, whatever its kind. Raises AloeError as `open_source` does."""
    read = {"trees": _open_trees, "chat": _open_chats, "preferences": _open_preferences}[kind_of(source)]
    return read(local_copy(source.path), "train", source.limit).trees


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


# ---------------------------------------------------------------- readers


@dataclass(frozen=True)
class Opened:
    """All conversations of a stored split, validated."""

    digests: list[bytes]  # of what decides a conversation's side
    trees: Iterator[MessageTree]
    personas: Sequence[Persona | None]
    remarks: list[str] = field(default_factory=list)
    unused: dict[str, None] = field(default_factory=dict)  # fields


def _hold_out(opened: Opened, data: DataSettings, path: str) -> tuple[NDArray[np.bool_], str]:
    """Which conversations [N] are held out, and how many by what in words."""
    total = len(opened.digests)
    people = People.of(opened.personas)
    if data.validation_by == "conversation" or not people.profiles:
        held = held_out(opened.digests, data.validation_fraction, path)
        why = "their personas are in training too" if people.profiles else "as the records have no personas"
        return held, f"{held.sum()} of {total} conversations are held out one by one, {why}"
    owners = [
        text_digest(persona.profile) if persona is not None and is_recorded(persona) else digest
        for persona, digest in zip(opened.personas, opened.digests, strict=True)
    ]
    held = held_out_by_profile(owners, data.validation_fraction, path)
    count, share = int(held.sum()), held.mean()
    profiles = len(set(compress(owners, held)))
    said = f"{count} of {total} conversations are held out, those of {profiles} of {len(set(owners))} profiles"
    if not data.validation_fraction / 2 <= share <= data.validation_fraction * 2:
        largest = Counter(owners).most_common(1)[0][1]
        said += (
            f"; that is {share:.1%} where {data.validation_fraction:.1%} is asked for, since profiles stay whole and "
            f"the largest has {largest} of the conversations"
        )
    return held, said


def _open_trees(path: Path, split: str, limit: int | None) -> Opened:
    conversations = read_conversations(path, split, limit)
    digests = [_digest(conversation.to_json()) for conversation in conversations]
    personas = [conversation.persona for conversation in conversations]
    return Opened(digests, map(MessageTree.of, conversations), personas)


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
    trees = (read_chat(record, where) for where, record in read_records(path, split, limit))
    return Opened(digests, trees, [None] * len(digests), remarks, unused)


def _open_preferences(path: Path, split: str, limit: int | None) -> Opened:
    unused: dict[str, None] = {}
    forest = Forest(read_comparison(record, where, unused) for where, record in read_records(path, split, limit))
    return Opened(forest.digests(), forest.trees(), [None] * len(forest), [], unused)


def _digest(text: str) -> bytes:
    return hashlib.blake2s(text.encode(), digest_size=8).digest()
