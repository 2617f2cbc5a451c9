"""Fields of chat and preference records: which are honoured, which are passed over, and which are refused by name.

Of a message everything is refused that is not known, because a chat template could write it into the text. Beside
the messages only those fields are refused that would change what is learned; the others are passed over and reported.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from aloe_jax.conversation import HALF, is_whole, shown
from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON

ROLES = {
    "system": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant",
}  # fmt: skip
SYSTEM = (  # columns beside the messages
    "system", "system_prompt", "system_message", "system_instruction", "systemPrompt", "developer",
)  # fmt: skip
FLAGS = ("train", "trainable", "training")  # of a message: whether the reply is learned from
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts", "reasoning_details")
# What a message may hold besides that no chat template writes.
REMARKS = {
    "id", "message_id", "uuid", "parent_id", "index", "turn", "timestamp", "time", "date", "created_at", "created",
    "create_time", "update_time", "model", "source", "score", "scores", "rating", "ratings", "quality", "language",
    "lang", "num_tokens", "token_count", "tokens", "length", "hash", "annotations", "metadata", "meta", "toxicity",
    "redacted", "feedback", "finish_reason", "usage", "logprobs", "rank", "country", "header", "state",
}  # fmt: skip
PARTS = ("text", "input_text", "output_text")  # types of content parts that are text
LATER = "write it into the text, or remove it"
# Beside the messages: what would change what is learned, and what to do.
REFUSED = dict.fromkeys(("tools", "functions", "function", "tool_calls"), "tools are not trained; remove it") | {
    **dict.fromkeys(
        ("image", "images", "video", "videos", "audio", "audios"), "only text is trained; remove the record"
    ),
    **dict.fromkeys(("documents", "chat_template_kwargs", "history", "prefix", "instructions"), LATER),
    **dict.fromkeys(THOUGHTS, "write it into the reply, or remove it"),
    **dict.fromkeys(
        ("weights", "loss_weight", "sample_weight", "loss_mask", "mask", "completion_mask", "assistant_masks"),
        'a reply is learned from or not: give its message "weight": 0 or 1, and weigh files with data.mixture',
    ),
    **dict.fromkeys(
        ("label", "labels", "kto_tag"),
        "a judgement of a single reply is not learned from; give preferences (prompt, chosen, rejected), or keep the "
        "records with good replies and remove the field",
    ),
}


def role_of(message: Mapping[str, JSON]) -> str | None:
    """system, user or assistant, under whichever name; None where it is none of them."""
    given = message.get("role") if message.get("role") is not None else message.get("from")
    return ROLES.get(given) if isinstance(given, str) else None


def is_empty(value: object) -> bool:
    """Whether a field says nothing."""
    return value is None or (isinstance(value, (str, list, dict)) and not value)


def text(value: object, where: str, name: str) -> str:
    """A string that is not blank and can be encoded, or a list of such parts, joined. Raises AloeError."""
    found = joined(value, where, name)
    if not found.strip():
        raise AloeError(f"{where}: {name}: is empty; mend or remove the record")
    return found


def joined(value: object, where: str, name: str) -> str:
    """A string, or the text of a list of content parts one after the other, as chat templates write them.

    Raises AloeError when it is neither, or has half a character.
    """
    if isinstance(value, list) and value:
        value = "".join(_part(part, where, name) for part in value)
    if not isinstance(value, str):
        found = "is missing" if value is None else f"expected text, found {type(value).__name__}"
        raise AloeError(f"{where}: {name}: {found}; mend or remove the record")
    if not is_whole(value):
        raise AloeError(f"{where}: {name}: {HALF}")
    return value


def _part(part: object, where: str, name: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind not in PARTS or not isinstance(part.get("text"), str):
        what = f"of type {shown(kind)}" if kind is not None and kind not in PARTS else "without text"
        raise AloeError(
            f"{where}: {name}: expected text, found list with a part {what}; only text is trained: mend or remove the "
            "record"
        )
    other = [key for key, value in part.items() if key not in ("type", "text", *REMARKS) and not is_empty(value)]
    if other and other != ["cache_control"]:
        raise AloeError(f"{where}: {name}: has a part with {shown(other[0])}, which would be lost; {LATER}")
    return part["text"]


def content(message: Mapping[str, JSON], where: str, name: str, optional: bool = False) -> str:
    """A message's text; `optional`: it may be empty or missing. Raises AloeError when there is more than text."""
    given = [key for key in ("content", "value") if message.get(key) is not None]
    key = given[0] if given else "content" if "content" in message or "value" not in message else "value"
    if len(given) == 2 and message["content"] != message["value"]:
        raise AloeError(f"{where}: {name}: content and value differ; keep one of them")
    if optional and (is_empty(message.get(key)) or not joined(message[key], where, f"{name}.{key}").strip()):
        return ""
    return text(message.get(key), where, f"{name}.{key}")


def is_learned(message: Mapping[str, JSON], where: str, name: str) -> bool | None:
    """What a message's flags say of learning from it; None where it has none.

    Raises AloeError for flags that are none or contradict each other, and for every field that would be lost.
    """
    role = role_of(message)
    given = (message.get("role"), message.get("from"))
    if None not in given and given[0] != given[1] and ROLES.get(str(given[0])) != ROLES.get(str(given[1])):
        raise AloeError(f"{where}: {name}: role and from differ; keep one of them")
    found: dict[str, bool] = {}
    for key, value in message.items():
        if is_empty(value) or key in ("role", "from", "content", "value") or key in REMARKS:
            continue
        if key in FLAGS or key == "weight":
            if not isinstance(value, (bool, int, float)) or value not in (0, 1):
                expected = "0 or 1" if key == "weight" else "true or false"
                more = "; to weigh whole files, see data.mixture" if key == "weight" else ""
                raise AloeError(f"{where}: {name}.{key}: is {shown(value)}, expected {expected}{more}")
            found[key] = bool(value)
        elif key in THOUGHTS:
            raise AloeError(
                f"{where}: {name}.{shown(key)}: would be lost; write it into the text (<think>…</think> before the "
                "reply), or remove the field"
            )
        else:
            raise AloeError(f"{where}: {name}.{shown(key)}: would be lost; {LATER}, or remove the record")
    if len(set(found.values())) > 1:
        raise AloeError(f"{where}: {name}: {' and '.join(found)} contradict each other; keep one of them")
    for key, value in found.items():
        if value and role != "assistant" and key in FLAGS:
            raise AloeError(f"{where}: {name}.{key}: only replies of the assistant are learned from; remove the field")
    return next(iter(found.values()), None)


def system_of(record: Mapping[str, JSON], where: str, said: str | None = None) -> str | None:
    """The system message of a record: of its column, or what is `said` first; None where there is none.

    Raises AloeError when two of them differ.
    """
    found = {} if said is None else {"the first message": said}
    for key in SYSTEM:
        if record.get(key) is not None and (column := joined(record[key], where, key)).strip():
            found[key] = column
    if len(set(found.values())) > 1:
        raise AloeError(f"{where}: {' and '.join(found)}: give different system messages; keep one of them")
    return next(iter(found.values()), None)


def check_others(record: Mapping[str, JSON], used: Collection[str], where: str, others: dict[str, None] | None) -> None:
    """Add the fields of a record that are passed over to `others`.

    Raises AloeError for one that would change what is learned.
    """
    for key, value in record.items():
        if key in used or key in SYSTEM or is_empty(value):
            continue
        if key in (*FLAGS, "weight"):
            if not isinstance(value, (bool, int, float)) or value != 1:
                raise AloeError(
                    f"{where}: {key}: is {shown(value)}, and a record is learned from as a whole; remove the record, "
                    f'or give its messages "{key}"'
                )
            continue
        if key in REFUSED:
            raise AloeError(f"{where}: {key}: would be lost; {REFUSED[key]}")
        if others is not None:
            others[key] = None
