"""Conversion of conversation files: our format, the published one, TRL preference rows, chat lines, persona pools.

Every module of a format says what it holds and what becomes of the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from aloe_jax.conversation import Conversation
from aloe_jax.errors import AloeError
from datagen.convert import aloe, chat_lines, ours, trl
from datagen.convert.chat_lines import Lines
from datagen.convert.json_lines import write_lines
from datagen.convert.persona_pool import read_pool, write_pool

Format = Literal["ours", "aloe", "trl", "chat", "pool"]
FORMATS: tuple[str, ...] = get_args(Format)

__all__ = ["FORMATS", "Converted", "Format", "convert", "read", "read_pool", "write_pool"]


@dataclass
class Converted:
    """What a conversion did: conversations (or pool texts) read, lines written, and what was left behind."""

    read: int = 0
    written: int = 0
    lost: Counter[str] = field(default_factory=Counter)  # what the target cannot hold -> how often

    def note(self, what: str, times: int = 1) -> None:
        """Count something that the target cannot hold."""
        if times:
            self.lost[what] += times


def convert(
    source: str | Path,
    source_format: Format,
    target: str | Path,
    target_format: Format,
    *,
    lines: Lines | None = None,
    split: str | None = None,
) -> Converted:
    """Read `source` in one format and write `target` in another, which replaces a file of that name when complete.

    `lines`: what a line of the target format chat is, a turn (the default) or a conversation. `split`: of a TFDS
    directory given as `source` in our format, default train. Raises AloeError naming file, line and field of a
    record that is not of the format, or that the target cannot hold at all.
    """
    source, target = Path(source), Path(target)
    for name in (source_format, target_format):
        if name not in FORMATS:
            raise AloeError(f"format {name!r}: choose from {', '.join(FORMATS)}")
    if lines is not None and target_format != "chat":
        raise AloeError(f"lines={lines}: only the target format chat has a choice of lines, not {target_format}")
    done = Converted()
    if "pool" in (source_format, target_format):
        if source_format != target_format:
            raise AloeError("a pool holds persona texts, not conversations; convert it from pool to pool")
        texts = read_pool(source)
        done.read, done.written = len(texts), write_pool(target, texts)
        return done
    conversations = _counted(read(source, source_format, done, split=split), done)
    if target_format == "chat":
        output = chat_lines.write(conversations, done.note, lines or "turn")
    else:
        output = {"aloe": aloe, "trl": trl, "ours": ours}[target_format].write(conversations, done.note)
    done.written = write_lines(target, output)
    return done


def read(
    path: Path, format: Format, done: Converted | None = None, *, split: str | None = None
) -> Iterator[Conversation]:
    """Yield the conversations of a file; `done` counts what our format cannot hold. Raises AloeError as `convert`."""
    note = (done or Converted()).note
    if format == "ours":
        return ours.read(path, note, split)
    if split is not None:
        raise AloeError(f"{path}: only a TFDS directory of our format has splits, not a file of format {format}")
    if format == "pool":
        raise AloeError(f"{path}: a file of format {format} holds no conversations")
    return {"aloe": aloe, "trl": trl, "chat": chat_lines}[format].read(path, note)


def _counted(conversations: Iterator[Conversation], done: Converted) -> Iterator[Conversation]:
    for conversation in conversations:
        done.read += 1
        yield conversation
