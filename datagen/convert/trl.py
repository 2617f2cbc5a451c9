"""TRL's conversational preference format, a row for each pair of replies.

    {"prompt": [messages], "chosen": [message], "rejected": [message],
     "persona": {"id", "profile", "personality"}, "conversation_id": …}

The last two columns are our addition: TRL passes over them, and with them reading puts the rows of a conversation
together again without guessing. Where they are absent, rows are joined by their texts alone and the persona is "not
recorded".

Read, a row joins the tree of a row whose prompt and one of whose replies its own prompt extends, in whatever order
the file has them; `continued` and the positions in a forked tree follow from that (at a fork the reply whose row comes
first in the file is the main line; where nobody answered, the preferred reply counts as continued). History that has
no row of its own is kept as turns with one reply. A system message is kept, as in `chat`; other columns are dropped and
counted.

Written, which reply had the hint, the inferred persona, and turns with one reply that no later turn has in its prompt
are lost and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from aloe_jax.conversation import NOT_RECORDED, Conversation, Persona
from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from datagen.convert.join import Row, RowGroup, join
from datagen.convert.json_lines import Notes, Record, dump, mapping, messages, note_columns, read_records, text

_COLUMNS = ("prompt", "chosen", "rejected", "persona", "conversation_id")


def read(path: Path, note: Notes) -> Iterator[Conversation]:
    """Yield the trees of all rows, in the order of their first rows. The whole file is in memory while rows join.

    Raises AloeError naming the line and the field of a row that is not of this format.
    """
    strings: dict[str, str] = {}  # every text is in many prompts: keep one copy
    yield from join(_row(record, note, strings) for record in read_records(path))


def write(conversations: Iterable[Conversation], note: Notes) -> Iterator[str]:
    """Yield a row for each turn with two replies; the prompt is the path that leads to it."""
    for conversation in conversations:
        turns = conversation.turns
        note("turns that say which reply was written with the hint", sum(turn.hinted is not None for turn in turns))
        note("turns that say which reply the verifier read first", sum(turn.shown_first is not None for turn in turns))
        note("turns with an inferred persona", sum(bool(t.inferred_profile or t.inferred_personality) for t in turns))
        covered: set[int] = set()  # turns that a row or the prompt of a row holds
        for number, turn in enumerate(turns):
            if turn.rejected is None:
                continue
            covered.update(earlier for earlier, _ in conversation.path(number))
            covered.add(number)
            row: dict[str, object] = {
                "prompt": conversation.messages(number),
                "chosen": [{"role": "assistant", "content": turn.preferred}],
                "rejected": [{"role": "assistant", "content": turn.rejected}],
            }
            if conversation.persona != NOT_RECORDED:
                row["persona"] = conversation.persona.model_dump()
            yield dump(row | {"conversation_id": conversation.id})
        note("turns with one reply that are in no row's prompt", len(turns) - len(covered))


def _row(record: Record, note: Notes, strings: dict[str, str]) -> Row:
    value, where = record.value, record.where
    note_columns(record, _COLUMNS, note)
    # Rows under different system messages are different dialogues, even if all else is equal.
    system, prompt = messages(record, "prompt", "user")
    name = value.get("conversation_id")
    if name is not None:
        name = text(name, where, "conversation_id")
    chosen, rejected = (_reply(value, field, where) for field in ("chosen", "rejected"))
    prompt, (chosen, rejected) = ([strings.setdefault(s, s) for s in part] for part in (prompt, [chosen, rejected]))
    return Row(
        where=where,
        position=record.number,
        group=RowGroup(_persona(value.get("persona"), where), name, system),
        users=prompt[::2],
        replies=prompt[1::2],
        preferred=chosen,
        rejected=rejected,
    )


def _reply(value: Mapping[str, JSON], field: str, where: str) -> str:
    reply = value.get(field)
    if not isinstance(reply, list) or len(reply) != 1 or not isinstance(reply[0], dict):
        raise AloeError(f"{where}: {field}: expected a list of one message of the assistant")
    if reply[0].get("role") != "assistant":
        raise AloeError(f"{where}: {field}.0.role: is {reply[0].get('role')!r} where 'assistant' is due")
    return text(reply[0].get("content"), where, f"{field}.0.content")


def _persona(value: object, where: str) -> Persona | None:
    if value is None:
        return None
    fields = mapping(value, where, "persona", ("id", "profile", "personality"))
    return Persona(**{key: text(fields[key], where, f"persona.{key}") for key in fields})
