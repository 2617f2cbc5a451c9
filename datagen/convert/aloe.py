"""The published format of the method: a persona and its turns, one conversation a line.

    {"profile": …, "personality": …, "conversations": [{"user": …, "assistant": {"preferred": …, "rejected": …},
     "chosen": "preferred" | "rejected", "inferred_profile": …, "inferred_personality": …}, …]}

Their `chosen` is the branch that the dialogue followed, which is our `continued`. Nothing of a published record is
lost on the way in and out again; a key that is not listed above is refused, since it could not be kept. The format
holds no ids, does not say which reply had the hint, and holds neither forks nor turns with one reply:

- ids are built from the line number and a hash of the record (persona ids from hashes of the two texts, so that equal
  profiles have equal ids);
- a forked tree becomes one record for each dialogue from its first turn to a last one, which repeats the turns that
  those dialogues share;
- a turn with one reply is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from aloe_jax.conversation import Branch, Conversation
from aloe_jax.errors import AloeError
from datagen.convert.json_lines import Notes, Record, dump, mapping, read_records, sequence, text

_MADE = re.compile(r"aloe-\d{6,}-[0-9a-f]{12}")


def read(path: Path, note: Notes) -> Iterator[Conversation]:
    """Yield the conversations of a file in the published format. Raises AloeError naming line and field."""
    for record in read_records(path):
        yield _conversation(record)


def write(conversations: Iterable[Conversation], note: Notes) -> Iterator[str]:
    """Yield the lines for `conversations`. Raises AloeError on a turn with one reply."""
    for conversation in conversations:
        for number, turn in enumerate(conversation.turns):
            if turn.rejected is None:
                raise AloeError(
                    f"conversation {conversation.id} turns.{number}: has one reply, and the format aloe needs two; "
                    "write trl or chat instead"
                )
        if not _MADE.fullmatch(conversation.id):
            note("ids of a conversation and its persona", 1)
        note("system messages", int(conversation.system is not None))
        note(
            "turns that say which reply was written with the hint",
            sum(t.hinted is not None for t in conversation.turns),
        )
        note(
            "turns that say which reply the verifier read first",
            sum(t.shown_first is not None for t in conversation.turns),
        )
        lines = _root_to_leaf(conversation)
        note("forked trees, written as one record for each of their dialogues", int(len(lines) > 1))
        note(
            "turns repeated because dialogues of a forked tree share them",
            sum(map(len, lines)) - len(conversation.turns),
        )
        for line in lines:
            yield dump(
                {
                    "profile": conversation.persona.profile,
                    "personality": conversation.persona.personality,
                    "conversations": [
                        {
                            "user": (turn := conversation.turns[number]).user,
                            "assistant": {"preferred": turn.preferred, "rejected": turn.rejected},
                            "chosen": followed,
                            "inferred_profile": turn.inferred_profile,
                            "inferred_personality": turn.inferred_personality,
                        }
                        for number, followed in line
                    ],
                }
            )


def _root_to_leaf(conversation: Conversation) -> list[list[tuple[int, Branch]]]:
    """Every dialogue from the first turn to a turn that nobody answered, in the order of those last turns.

    A dialogue is a list of (turn, the reply that it follows there); at its last turn the reply marked as continued.
    An ordinary tree has one, its main line.
    """
    answered = {parent[0] for number in range(len(conversation.turns)) if (parent := conversation.parent(number))}
    return [
        [*conversation.path(number), (number, turn.continued)]
        for number, turn in enumerate(conversation.turns)
        if number not in answered
    ]


def _conversation(record: Record) -> Conversation:
    where = record.where
    value = mapping(record.value, where, "", ("profile", "personality", "conversations"))
    profile, personality = (text(value[key], where, key) for key in ("profile", "personality"))
    digest = _hash(json.dumps(value, sort_keys=True))
    return Conversation.parse(
        {
            "id": f"aloe-{record.number:06d}-{digest[:12]}",
            "persona": {
                "id": f"p{_hash(profile)[:8]}-t{_hash(personality)[:8]}",
                "profile": profile,
                "personality": personality,
            },
            "turns": [
                _turn(turn, where, f"conversations.{number}")
                for number, turn in enumerate(sequence(value["conversations"], where, "conversations"))
            ],
        },
        where,
    )


def _turn(value: object, where: str, field: str) -> dict[str, object]:
    keys = ("user", "assistant", "chosen", "inferred_profile", "inferred_personality")
    turn = mapping(value, where, field, keys)
    replies = mapping(turn["assistant"], where, f"{field}.assistant", ("preferred", "rejected"))
    if turn["chosen"] not in ("preferred", "rejected"):
        raise AloeError(f"{where}: {field}.chosen: is {turn['chosen']!r}; it must be 'preferred' or 'rejected'")
    for key in ("inferred_profile", "inferred_personality"):
        if not isinstance(turn[key], str):
            raise AloeError(f"{where}: {field}.{key}: expected text, which may be empty")
    return {
        "user": text(turn["user"], where, f"{field}.user"),
        **{branch: text(reply, where, f"{field}.assistant.{branch}") for branch, reply in replies.items()},
        "continued": turn["chosen"],
        "inferred_profile": turn["inferred_profile"],
        "inferred_personality": turn["inferred_personality"],
    }


def _hash(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
