"""Chats: one dialogue a record, whose every assistant message is a reply to learn from.

    {"messages": [{"role": "system" | "user" | "assistant", "content": …}, …]}
    {"conversations": [{"from": "system" | "human" | "gpt", "value": …}, …]}
    {"prompt": text or [messages], "completion": text or [messages]}    replies of the completion are learned from
    {"instruction": text, "input": text, "output": text}                a user message of two parts, and its reply

Either list may have either kind of message. A system message may come first, or stand beside the messages as `system`;
then user and assistant take turns. A reply whose message has `"weight": 0` or `"train": false` is context and not
learned from. `fields.py` says which other fields are passed over and which are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aloe_jax.conversation import quoted
from aloe_jax.data.fields import check_others, content, is_empty, is_learned, role_of, system_of, text
from aloe_jax.data.messages import Exchange, MessageTree, Reply, hashed
from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON

FIELDS = ("messages", "conversations")


@dataclass(frozen=True, slots=True)
class Chat:
    """A dialogue: the texts of user and assistant in turn, the user's first."""

    system: str | None
    texts: list[str]
    learned: list[bool | None]  # what is said of learning from every one


def read_chat(record: Mapping[str, JSON], where: str, others: dict[str, None] | None = None) -> MessageTree:
    """The dialogue as a message tree of one path; a user message without a reply at its end is left out.

    The names of fields that are passed over are added to `others`. Raises AloeError naming `where` (file and record),
    the field and what to do.
    """
    said, used = _said(record, where)
    check_others(record, used, where, others)
    system = system_of(record, where, said.system)
    exchanges: list[Exchange] = []
    path = hashed(None, system)
    for user, reply, learned in zip(said.texts[::2], said.texts[1::2], said.learned[1::2], strict=False):
        path = hashed(path, user, reply)
        follows = (len(exchanges) - 1, 0) if exchanges else None
        answer = Reply(reply, path.hexdigest(), None if learned is False else "preferred")
        # Nobody was given a hint to write it with.
        exchanges.append(Exchange(user, (answer,), follows=follows, plain="preferred"))
    return MessageTree(where, where, tuple(exchanges), system)


def _said(record: Mapping[str, JSON], where: str) -> tuple[Chat, tuple[str, ...]]:
    """The dialogue, and the fields that it is of."""
    field = next((name for name in FIELDS if record.get(name) is not None), None)
    if field is None and not is_empty(record.get("completion")):
        used: tuple[str, ...] = ("prompt", "completion")
        said = _completed(record, where)
    elif field is None and not is_empty(record.get("instruction")):
        used = ("instruction", "input", "output")
        said = Chat(None, [instruction(record, where), text(record.get("output"), where, "output")], [None, None])
    else:
        field = field or FIELDS[0]
        used = (field,)
        said = read_messages(record.get(field), where, field)
    if len(said.texts) < 2:
        raise AloeError(f"{where}: {used[-1]}: has no message of the assistant to learn from; remove the record")
    return said, used


def instruction(record: Mapping[str, JSON], where: str) -> str:
    """An instruction with its input, as one user message. Raises AloeError where either is no text."""
    asked = text(record.get("instruction"), where, "instruction")
    return asked if is_empty(record.get("input")) else f"{asked}\n{text(record['input'], where, 'input')}"


def _completed(record: Mapping[str, JSON], where: str) -> Chat:
    """A prompt and its completion, whose replies alone are learned from."""
    parts: list[list[JSON]] = []
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        value = record.get(name)
        parts.append(value if isinstance(value, list) else [{"role": role, "content": text(value, where, name)}])
    prompt = read_messages(parts[0], where, "prompt")
    if len(prompt.texts) % 2 == 0:
        raise AloeError(f"{where}: prompt: must end with a user message; mend or remove the record")
    whole = read_messages([*parts[0], *parts[1]], where, "prompt and completion")
    before = len(prompt.texts)
    context: list[bool | None] = [False] * before
    return Chat(whole.system, whole.texts, [*context, *whole.learned[before:]])


def ends_unanswered(record: Mapping[str, JSON]) -> bool:
    """Whether a chat that `read_chat` takes ends with a user message."""
    messages = next((record[name] for name in (*FIELDS, "completion") if record.get(name) is not None), None)
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and role_of(last) == "user"


def read_messages(value: object, where: str, field: str) -> Chat:
    """The system message, None where there is none or it is empty, and what user and assistant say in turn.

    Raises AloeError naming the first message that is out of turn, not plain text, or has a field that would be lost.
    """
    system: str | None = None
    texts: list[str] = []
    learned: list[bool | None] = []
    for number, message in enumerate(_messages(value, where, field)):
        name = f"{field}.{number}"
        role = role_of(message)
        due = "assistant" if len(texts) % 2 else "user"
        if role == "system" and number == 0:
            is_learned(message, where, name)
            system = content(message, where, name, optional=True) or None
        elif role == due:
            learned.append(is_learned(message, where, name))
            texts.append(content(message, where, name))
        else:
            given = message.get("role", message.get("from"))
            opens = "; a chat opens with a user message, perhaps behind a system message" if not texts else ""
            raise AloeError(
                f"{where}: {name}.role: is {quoted(given)} where {due!r} is due{opens}; "
                "mend or remove the record: user and assistant take turns"
            )
    return Chat(system, texts, learned)


def _messages(value: object, where: str, field: str) -> Sequence[Mapping[str, JSON]]:
    if not isinstance(value, list) or not value:
        found = "is missing" if value is None else "is empty" if value == [] else "is not a list"
        raise AloeError(f'{where}: {field}: {found}; give a list of {{"role": …, "content": …}}')
    for number, message in enumerate(value):
        if not isinstance(message, dict):
            raise AloeError(
                f'{where}: {field}.{number}: expected {{"role": …, "content": …}}, found {type(message).__name__}'
            )
    return value
