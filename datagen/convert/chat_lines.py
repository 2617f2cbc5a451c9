"""Chat lines: {"messages": [{"role": …, "content": …}, …]}, user and assistant in turn, one dialogue a line.

Written from a tree, a line is either a turn (`lines="turn"`): its context and its preferred reply, so that the last
reply of every line is a preferred one; or a conversation (`lines="conversation"`): the dialogue as it ran along the
continued replies, which were drawn at random and so are not all preferred.

Read, a line becomes a conversation with one reply a turn, good for SFT. Lines are not joined: those written by
turn come back as so many conversations. A system message, first of the messages or in a column of its own, is kept. The
persona is "not recorded".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from aloe_jax.conversation import NOT_RECORDED, Conversation, Turn
from datagen.convert.json_lines import Notes, dump, messages, note_columns, read_records

Lines = Literal["turn", "conversation"]


def read(path: Path, note: Notes) -> Iterator[Conversation]:
    """Yield a conversation for each line. Raises AloeError naming the line and the message that is out of turn."""
    for record in read_records(path):
        note_columns(record, ("messages",), note)
        system, texts = messages(record, "messages", "assistant")
        digest = hashlib.sha256(dump(texts).encode()).hexdigest()
        yield Conversation(
            id=f"chat-{record.number:06d}-{digest[:12]}",
            persona=NOT_RECORDED,
            system=system,
            turns=[
                Turn(user=user, preferred=reply, rejected=None, continued="preferred")
                for user, reply in zip(texts[::2], texts[1::2], strict=True)
            ],
        )


def write(conversations: Iterable[Conversation], note: Notes, lines: Lines = "turn") -> Iterator[str]:
    """Yield the lines for `conversations`, one for every turn or one for every conversation."""
    for conversation in conversations:
        turns = conversation.turns
        if conversation.persona != NOT_RECORDED:
            note("personas", 1)
        note("turns with an inferred persona", sum(bool(t.inferred_profile or t.inferred_personality) for t in turns))
        if lines == "turn":
            note("rejected replies", sum(turn.rejected is not None for turn in turns))
            for number in range(len(turns)):
                yield dump({"messages": conversation.messages(number, "preferred")})
        else:
            length = len(conversation.main_line)
            note("replies that the dialogue did not follow", sum(t.rejected is not None for t in turns[:length]))
            note("turns off the main line of a forked tree", len(turns) - length)
            yield dump({"messages": conversation.messages(length - 1, turns[length - 1].continued)})
