"""Conversations as the TFDS data set `aloe_trees` stores them, written and read back.

TFDS has no None, so each optional field of a turn has a value that means "none"; it gives text as bytes, and a list of
turns as a dict of columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral

from aloe_jax.conversation import Conversation
from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON

ABSENT: Mapping[str, str | int] = {
    "rejected": "",
    "hinted": "",
    "shown_first": "",
    "favoured_first": -1,
    "favoured_second": -1,
    "follows": -1,
    "after": "",
}


def stored(conversation: Conversation) -> dict[str, JSON]:
    """A conversation as a record of the data set. Raises AloeError for a system message, which has no column there."""
    if conversation.system is not None:
        raise AloeError(f"conversation {conversation.id}: a TFDS data set has no system messages; write JSONL instead")
    record: dict[str, JSON] = conversation.model_dump(exclude={"system"})
    record["turns"] = [
        turn.model_dump() | {key: absent for key, absent in ABSENT.items() if getattr(turn, key) is None}
        for turn in conversation.turns
    ]
    return record


def restored(record: Mapping[str, object]) -> dict[str, JSON]:
    """The record of a conversation, or of a persona, as it was before it was stored."""
    plain = {key: _plain(value) for key, value in record.items()}
    columns = plain.get("turns")
    if isinstance(columns, dict):
        values = zip(*(column for column in columns.values() if isinstance(column, list)), strict=True)
        plain["turns"] = [
            {key: None if value == ABSENT.get(key) else value for key, value in zip(columns, turn, strict=True)}
            for turn in values
        ]
    return plain


def _plain(value: object) -> JSON:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    assert isinstance(value, Iterable)
    return [_plain(item) for item in value]
