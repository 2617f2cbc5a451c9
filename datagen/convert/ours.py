"""Our own format: the JSON of a Conversation a line, which holds everything; also read from a TFDS directory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from aloe_jax.conversation import Conversation
from aloe_jax.errors import AloeError
from datagen.convert.json_lines import Notes, read_records


def read(path: Path, note: Notes, split: str | None = None) -> Iterator[Conversation]:
    """Yield the conversations of a JSONL file, or of one split (default train) of a TFDS directory.

    Raises AloeError naming the record and its field, on an id that occurs twice, and on a split of a file.
    """
    if path.is_dir():
        from aloe_jax.data.dataset import read_conversations

        yield from read_conversations(path, split or "train")
        return
    if split is not None:
        raise AloeError(f"{path}: only a TFDS directory has splits; give the file of the split {split}")
    lines: dict[str, int] = {}
    for record in read_records(path):
        conversation = Conversation.parse(record.value, record.where)
        first = lines.setdefault(conversation.id, record.number)
        if first != record.number:
            raise AloeError(f"{record.where}: id: {conversation.id} is also the id of line {first}")
        yield conversation


def write(conversations: Iterable[Conversation], note: Notes) -> Iterator[str]:
    """Yield the lines for `conversations`."""
    for conversation in conversations:
        yield conversation.to_json()
