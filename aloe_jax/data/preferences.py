"""Preference records, and the trie that makes records with a common beginning one tree.

    {"prompt": [messages], "chosen": [message], "rejected": [message]}    conversational
    {"prompt": text, "chosen": text, "rejected": text}                    a user message and two replies
    {"chosen": [messages], "rejected": [messages]}                        dialogues that differ in their last message
    {"conversations": [messages], "chosen": message, "rejected": message} the same as a prompt
    {"instruction": text, "input": text, "chosen": text, "rejected": text}

Each is one judgement between two replies, called preferred and rejected. A system message may come first,
or stand beside them as `system`; `fields.py` says which other fields are passed over and which are refused.
Records join at their first user message, under the same system message, and share what they have in common from there:
data exported pair by pair from trees becomes the trees again, in which every token stands once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from aloe_jax.conversation import Branch
from aloe_jax.data.chats import FIELDS, instruction, read_messages
from aloe_jax.data.fields import check_others, content, is_empty, is_learned, role_of, system_of, text
from aloe_jax.data.messages import Choice, Exchange, Hash, MessageTree, Reply, ReplyIndex, hashed
from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON


@dataclass(frozen=True, slots=True)
class Comparison:
    """A prompt with its two replies."""

    where: str
    system: str | None
    said: tuple[str, ...]  # user and assistant in turn, the user's first and last
    preferred: str
    rejected: str


def read_comparison(record: Mapping[str, JSON], where: str, others: dict[str, None] | None = None) -> Comparison:
    """Validate a record. Raises AloeError naming `where` (file and record), the field and what to do.

    The names of fields that are passed over are added to `others`.
    """
    prompt = _as_messages(record.get("prompt"), "user", where, "prompt")
    used = ["prompt", "chosen", "rejected"]
    ends = [_as_messages(record.get(name), "assistant", where, name) for name in ("chosen", "rejected")]
    for name, end in zip(("chosen", "rejected"), ends, strict=True):
        if end is None:
            raise AloeError(f"{where}: {name}: is missing; a preference has a chosen and a rejected reply")
    preferred, rejected = ends
    assert preferred is not None and rejected is not None
    if prompt is None and not (_is_whole(preferred) and _is_whole(rejected)):
        field = next((name for name in FIELDS if not is_empty(record.get(name))), None)
        if field is not None:
            used.append(field)
            prompt = _as_messages(record[field], "user", where, field)
        elif not is_empty(record.get("instruction")):
            used += ("instruction", "input")
            prompt = [{"role": "user", "content": instruction(record, where)}]
    check_others(record, used, where, others)
    if prompt is None and not (_is_whole(preferred) and _is_whole(rejected)):
        raise AloeError(f"{where}: prompt: is missing; give it, or whole dialogues in chosen and rejected")
    if _is_whole(preferred) and _is_whole(rejected):  # the prompt is in both, whether or not it is given besides
        given = prompt
        prompt, preferred, rejected = _parted(preferred, rejected, where)
        stated = record.get("prompt")
        if given is not None and isinstance(stated, str):  # perhaps written in another form
            if others is not None and stated.strip() not in _texts(prompt):
                others["prompt"] = None
        elif given is not None:
            prompt = _agreed(given, prompt, where)
    replies = [_reply(end, where, name) for name, end in (("chosen", preferred), ("rejected", rejected))]
    if replies[0].strip() == replies[1].strip():
        raise AloeError(f"{where}: chosen, rejected: the two replies are equal; remove the record")
    said = read_messages(prompt, where, "prompt")
    if len(said.texts) % 2 == 0:
        raise AloeError(f"{where}: prompt: must end with a user message; mend or remove the record")
    return Comparison(where, system_of(record, where, said.system), tuple(said.texts), *replies)


def _as_messages(value: object, role: str, where: str, name: str) -> list[JSON] | None:
    """Text becomes one message of `role`, and a message a list of one."""
    if value is None or isinstance(value, list):
        return value
    if isinstance(value, dict):
        return [value]
    return [{"role": role, "content": text(value, where, name)}]


def _is_whole(messages: list[JSON]) -> bool:
    """Whether messages are a dialogue from its start, not only a reply."""
    return bool(messages) and isinstance(messages[0], dict) and role_of(messages[0]) in ("system", "user")


def _parted(one: list[JSON], other: list[JSON], where: str) -> tuple[list[JSON], list[JSON], list[JSON]]:
    """Two dialogues as their common beginning and what is left of each; equal ones part before their last message."""
    shared = 0
    for left, right in zip(one[:-1], other[:-1], strict=False):
        if left != right:
            break
        shared += 1
    if not shared:
        raise AloeError(
            f"{where}: chosen, rejected: have no common beginning to be the prompt; mend or remove the record"
        )
    return one[:shared], one[shared:], other[shared:]


def _texts(messages: list[JSON]) -> list[str]:
    return [str(m.get("content", m.get("value"))).strip() for m in messages if isinstance(m, dict)]


def _agreed(given: list[JSON], shared: list[JSON], where: str) -> list[JSON]:
    """The beginning of two dialogues, with the system message of a prompt that is given besides and says the same."""
    one, other = read_messages(given, where, "prompt"), read_messages(shared, where, "chosen")
    if one.texts != other.texts[-len(one.texts) :] or (
        None not in (one.system, other.system) and one.system != other.system
    ):
        raise AloeError(f"{where}: prompt: is not how chosen and rejected begin; keep one of them, or mend the record")
    return given[:1] + shared if one.system is not None and other.system is None else shared


def _reply(messages: list[JSON], where: str, name: str) -> str:
    if len(messages) != 1 or not isinstance(messages[0], dict) or role_of(messages[0]) != "assistant":
        raise AloeError(
            f"{where}: {name}: expected one message of the assistant behind the prompt, found {len(messages)} "
            "messages or another role; a judgement is between two replies to the same prompt"
        )
    if is_learned(messages[0], where, f"{name}.0") is False:
        raise AloeError(f"{where}: {name}.0: is judged and marked as not to be learned from; remove the record")
    return content(messages[0], where, f"{name}.0")


# ---------------------------------------------------------------- the trie


@dataclass(slots=True, eq=False)
class _Reply:
    text: str
    preferred: bool = False
    judged: bool = False
    answers: dict[str, _Prompt] = field(default_factory=dict)  # by the user's next message


@dataclass(slots=True, eq=False)
class _Prompt:
    user: str
    replies: dict[str, _Reply] = field(default_factory=dict)
    choices: list[tuple[str, str, str]] = field(default_factory=list)  # preferred, rejected, where


class Forest:
    """Comparisons joined by what they have in common, in the order of their first records."""

    def __init__(self, comparisons: Iterable[Comparison]):
        self._roots: dict[tuple[str | None, str], _Prompt] = {}
        self._texts: dict[str, str] = {}  # a text is in many prompts: one copy is kept
        for comparison in comparisons:
            self._add(comparison)

    def __len__(self) -> int:
        return len(self._roots)

    def digests(self) -> list[bytes]:
        """A digest of every tree's first messages, which further records do not change."""
        return [hashed(None, *root).digest() for root in self._roots]

    def trees(self) -> Iterator[MessageTree]:
        """Every tree, in the order of `digests`."""
        for (system, _), root in self._roots.items():
            yield _message_tree(system, root)

    def _add(self, comparison: Comparison) -> None:
        first, *rest = (self._texts.setdefault(said, said) for said in comparison.said)
        prompt = self._roots.setdefault((comparison.system, first), _Prompt(first))
        for reply, user in zip(rest[::2], rest[1::2], strict=True):
            after = prompt.replies.setdefault(reply, _Reply(reply)).answers
            prompt = after.setdefault(user, _Prompt(user))
        for said in (comparison.preferred, comparison.rejected):
            said = self._texts.setdefault(said, said)  # noqa: PLW2901 - the same text
            prompt.replies.setdefault(said, _Reply(said)).judged = True
        prompt.replies[comparison.preferred].preferred = True
        prompt.choices.append((comparison.preferred, comparison.rejected, comparison.where))


def _message_tree(system: str | None, root: _Prompt) -> MessageTree:
    exchanges: list[Exchange] = []
    waiting: list[tuple[_Prompt, ReplyIndex | None, Hash]] = [(root, None, hashed(None, system))]
    firsts: list[str] = []
    while waiting:
        prompt, follows, path = waiting.pop()
        # Replies that were answered come last, next to their answers.
        replies = sorted(prompt.replies.values(), key=lambda reply: bool(reply.answers))
        index = {reply.text: number for number, reply in enumerate(replies)}
        paths = [hashed(path, prompt.user, reply.text) for reply in replies]
        exchanges.append(
            Exchange(
                prompt.user,
                tuple(
                    Reply(reply.text, through.hexdigest(), _branch(reply))
                    for reply, through in zip(replies, paths, strict=True)
                ),
                tuple(Choice(index[one], index[other], where) for one, other, where in prompt.choices),
                follows,
            )
        )
        firsts += [where for _, _, where in prompt.choices[:1]]
        number = len(exchanges) - 1
        for which in reversed(range(len(replies))):
            waiting += [(answer, (number, which), paths[which]) for answer in reversed(replies[which].answers.values())]
    return MessageTree(firsts[0], firsts[0], tuple(exchanges), system, joined=True)


def _branch(reply: _Reply) -> Branch | None:
    """A reply that is preferred in one judgement and rejected in another counts as preferred."""
    return ("preferred" if reply.preferred else "rejected") if reply.judged else None
