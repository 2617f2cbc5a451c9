"""Chats: one dialogue a record, whose every assistant message is a reply to learn from.

    {"messages": [{"role": "system" | "user" | "assistant", "content": …}, …]}
    {"conversations": [{"from": "system" | "human" | "gpt", "value": …}, …]}

Either list may have either kind of message. A system message may come first; then user and assistant take turns. Other
fields of a record are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aloe_jax.conversation import Message
from aloe_jax.data.messages import Exchange, MessageTree, Reply, hashed
from aloe_jax.errors import AloeError

FIELDS = ("messages", "conversations")
ROLES = {
    "system": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant",
}  # fmt: skip
# What a message may hold besides its text that would change what is learnt; anything else is passed over.
MEANINGFUL = ("tool_calls", "function_call", "weight")


def read_chat(record: Mapping[str, Any], where: str) -> MessageTree:
    """The dialogue as a message tree of one path; a user message without a reply at its end is left out.

    Raises AloeError naming `where` (file and record), the field and what to do.
    """
    field = next((name for name in FIELDS if record.get(name) is not None), FIELDS[0])
    system, texts = read_messages(record.get(field), where, field)
    if len(texts) < 2:
        raise AloeError(f"{where}: {field}: has no message of the assistant to learn from; remove the record")
    opening: tuple[Message, ...] = () if system is None else ({"role": "system", "content": system},)
    exchanges: list[Exchange] = []
    path = hashed(None, system)
    for user, reply in zip(texts[::2], texts[1::2], strict=False):
        path = hashed(path, user, reply)
        asked: Message = {"role": "user", "content": user}
        follows = (len(exchanges) - 1, 0) if exchanges else None
        answer = Reply(reply, path.hexdigest(), "preferred")
        # Nobody was given a hint to write it with.
        exchanges.append(Exchange((*opening, asked), (answer,), follows=follows, plain="preferred"))
        opening = ()
    return MessageTree(where, where, tuple(exchanges))


def ends_unanswered(record: Mapping[str, Any]) -> bool:
    """Whether a chat that `read_chat` takes ends with a user message."""
    messages = next(record[name] for name in FIELDS if record.get(name) is not None)
    return role_of(messages[-1]) == "user"


def role_of(message: Mapping[str, Any]) -> str | None:
    """system, user or assistant, under whichever name; None where it is none of them."""
    role = message.get("role", message.get("from"))
    return ROLES.get(role) if isinstance(role, str) else None


def read_messages(value: Any, where: str, field: str) -> tuple[str | None, list[str]]:
    """The system message, None where there is none, and the texts of user and assistant in turn, the user's first.

    Raises AloeError naming the first message that is out of turn or not plain text.
    """
    system: str | None = None
    texts: list[str] = []
    for number, message in enumerate(_messages(value, where, field)):
        name = f"{field}.{number}"
        role = role_of(message)
        due = "assistant" if len(texts) % 2 else "user"
        if role == "system" and number == 0:
            system = content(message, where, name)
        elif role == due:
            texts.append(content(message, where, name))
        else:
            given = message.get("role", message.get("from"))
            opens = "; a chat opens with a user message, perhaps behind a system message" if not texts else ""
            raise AloeError(
                f"{where}: {name}.role: is {given!r} where {due!r} is due{opens}; "
                "mend or remove the record: user and assistant take turns"
            )
    return system, texts


def content(message: Mapping[str, Any], where: str, name: str) -> str:
    """A message's text. Raises AloeError when there is none, or more than text."""
    for key in MEANINGFUL:
        if message.get(key) is not None:
            raise AloeError(f"{where}: {name}.{key}: would be lost; write it into the text, or remove the record")
    key = "content" if "content" in message or "value" not in message else "value"
    return text(message.get(key), where, f"{name}.{key}")


def text(value: Any, where: str, name: str) -> str:
    """A string that is not blank and can be encoded. Raises AloeError."""
    if not isinstance(value, str):
        found = "is missing" if value is None else f"expected text, found {type(value).__name__}"
        raise AloeError(f"{where}: {name}: {found}; mend or remove the record")
    if not value.strip():
        raise AloeError(f"{where}: {name}: is empty; mend or remove the record")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise AloeError(f"{where}: {name}: has half a character (a lone surrogate such as \\ud83d); mend it") from None
    return value


def _messages(value: Any, where: str, field: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not value:
        found = "is missing" if value is None else "is empty" if value == [] else "is not a list"
        raise AloeError(f'{where}: {field}: {found}; give a list of {{"role": …, "content": …}}')
    for number, message in enumerate(value):
        if not isinstance(message, dict):
            raise AloeError(
                f'{where}: {field}.{number}: expected {{"role": …, "content": …}}, found {type(message).__name__}'
            )
    return value
