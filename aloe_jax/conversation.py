"""Persona, turn and conversation: the types that every stage of the line passes on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON

Branch = Literal["preferred", "rejected"]
Message = Mapping[str, str]  # {"role": "user" | "assistant", "content": text}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @field_validator("*")
    @classmethod
    def _whole(cls, value: object) -> object:
        if isinstance(value, str) and not is_whole(value):
            raise ValueError(HALF)
        return value

    @classmethod
    def parse(cls, value: object, where: str) -> Self:
        """Validate a plain dict. Raises AloeError with `where` (file and record) and the first bad field."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise AloeError(f"{where}: {first_fault(error)}") from None


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


NotBlank = Annotated[str, AfterValidator(_not_blank)]
HALF = "has half a character (a lone surrogate such as \\ud83d); mend it"


def first_fault(error: ValidationError) -> str:
    """The first fault of a pydantic error as `field: what is wrong`."""
    fault = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(shown(part) for part in fault["loc"]) or "record"
    if fault["type"] == "string_unicode":
        return f"{field}: {HALF}"
    said = fault["msg"].removeprefix("Value error, ")
    # The rest as it is: what it quotes, such as 'A' or 'B', is to be written so.
    return f"{field}: {shown(said[:1].lower() + said[1:], 300)}"


def shown(value: object, most: int = 60) -> str:
    """Something from a file for a message: in one line that any terminal takes, and not long."""
    try:
        text = value if isinstance(value, str) else str(value) if isinstance(value, BaseException) else repr(value)
    except (RecursionError, ValueError):  # a list in a list in a list …, or a number of very many digits
        text = type(value).__name__
    text = " ".join(text[: 4 * most].split())
    text = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
    text = text or type(value).__name__
    return text if len(text) <= most else f"{text[:most]}…"


def quoted(value: object) -> str:
    """The same in quotation marks where it is text."""
    return f"'{shown(value)}'" if isinstance(value, str) else shown(value)


def is_whole(text: str) -> bool:
    """Whether a text can be encoded: it has no half of a character that JSON's escapes can say."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_record[R: BaseModel](kind: type[R], path: str | Path, advice: str) -> R:
    """Read a JSON file as one record. Raises AloeError with the file, the first bad field and `advice`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        json.loads(text)
        return kind.model_validate_json(text)
    except OSError as error:
        raise AloeError(f"{path}: cannot be read ({error.strerror}); {advice}") from None
    except ValidationError as error:
        raise AloeError(f"{path}: {first_fault(error)}; {advice}") from None
    except (ValueError, RecursionError) as error:
        raise AloeError(f"{path}: not valid JSON ({error}); {advice}") from None


class Persona(_Record):
    """Who the user is: a profile (daily, objective facts) and a personality (traits)."""

    id: str = Field(min_length=1)
    profile: str = Field(min_length=1)
    personality: str = Field(min_length=1)


NOT_RECORDED = Persona(id="unrecorded", profile="not recorded", personality="not recorded")  # of converted chats


class Turn(_Record):
    """One exchange: a user message and its two candidate replies.

    `preferred` and `rejected` are the verifier's judgement; `continued` is the branch that the dialogue
    followed, drawn at random. `rejected` is None in data with one reply a turn, which teaches SFT only. `hinted`
    says which of the two was written with the inferred persona as a hidden hint; it is None in data that does
    not record it. The inferred texts are what the user's messages up to and including this one had revealed.

    `shown_first` is the reply that the verifier read first when it preferred `preferred`. Where it was asked in both
    orders, `favoured_first` and `favoured_second` count the pairs that were drawn before this one and given up because
    it preferred, in both orders, whichever was read first, or second. All three are None where it is not recorded.

    `follows` and `after` give the position in the tree: the turn answers the reply `after` of turn number `follows`
    (0-based). None, as in every turn of a tree that never forks, means the turn before it in the list and the
    reply that was continued there.
    """

    user: NotBlank
    preferred: NotBlank
    rejected: NotBlank | None  # required, so that a reply that was lost is noticed: write null where there is none
    continued: Branch
    hinted: Branch | None = None
    shown_first: Branch | None = None
    favoured_first: int | None = Field(default=None, ge=0)
    favoured_second: int | None = Field(default=None, ge=0)
    inferred_profile: str = ""
    inferred_personality: str = ""
    follows: int | None = Field(default=None, ge=0)
    after: Branch | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Turn:
        if self.rejected is None and "rejected" in (self.continued, self.hinted, self.shown_first):
            raise ValueError("there is no rejected reply to be continued, hinted or shown first")
        if (self.favoured_first is None) != (self.favoured_second is None):
            raise ValueError("favoured_first and favoured_second belong together: give both or neither")
        if (self.follows is None) != (self.after is None):
            raise ValueError("follows and after belong together: give both or neither")
        return self

    @property
    def replies(self) -> dict[Branch, str]:
        """The replies that there are, by branch."""
        replies: dict[Branch, str] = {"preferred": self.preferred}
        if self.rejected is not None:
            replies["rejected"] = self.rejected
        return replies

    def reply(self, branch: Branch) -> str:
        """The text of one of the replies. Raises KeyError when there is none on that branch."""
        return self.replies[branch]

    @property
    def plain(self) -> Branch | None:
        """The branch that was written without the hint, where the data records it."""
        if self.hinted is None:
            return None
        return "rejected" if self.hinted == "preferred" else "preferred"


class Conversation(_Record):
    """A conversation tree: at every turn two replies, of which the user goes on to answer one, or both.

    `turns` lists a turn after the turn that it answers. The first turns that name no `follows` are the main
    line; a reply is answered at most once.
    """

    id: str = Field(min_length=1)
    persona: Persona
    system: NotBlank | None = None
    turns: list[Turn] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_a_tree(self) -> Conversation:
        answered: set[tuple[int, Branch]] = set()
        for number, turn in enumerate(self.turns):
            parent = self.parent(number)
            if parent is None:
                if number:
                    raise ValueError(f"turns.{number}: only the first turn opens the conversation")
                continue
            earlier, branch = parent
            if earlier >= number:
                raise ValueError(f"turns.{number}.follows: {turn.follows} is not an earlier turn")
            if branch not in self.turns[earlier].replies:
                raise ValueError(f"turns.{number}.after: turn {earlier} has no {branch} reply")
            if parent in answered:
                raise ValueError(f"turns.{number}: the {branch} reply of turn {earlier} is answered twice")
            answered.add(parent)
        return self

    def parent(self, turn: int) -> tuple[int, Branch] | None:
        """The (turn, reply) that `turn` answers, None for the first."""
        this = self.turns[turn]
        if this.follows is not None and this.after is not None:
            return this.follows, this.after
        return None if turn == 0 else (turn - 1, self.turns[turn - 1].continued)

    def path(self, turn: int) -> list[tuple[int, Branch]]:
        """The (turn, reply) pairs that lead to `turn`, the first turn's first."""
        replies: list[tuple[int, Branch]] = []
        parent = self.parent(turn)
        while parent is not None:
            replies.append(parent)
            parent = self.parent(parent[0])
        return replies[::-1]

    def depth(self, turn: int) -> int:
        """How many turns come before `turn` on its path: on the main line its own number."""
        return len(self.path(turn))

    @property
    def main_line(self) -> list[Turn]:
        """The turns of the dialogue that followed the continued replies."""
        return list(itertools.takewhile(lambda turn: turn.follows is None, self.turns))

    def messages(self, turn: int, branch: Branch | None = None) -> list[Message]:
        """The path up to the user message of `turn` (0-based), and its reply when `branch` is given.

        A system message comes first.
        """
        messages: list[Message] = [] if self.system is None else [{"role": "system", "content": self.system}]
        for earlier, reply in self.path(turn):
            messages.append({"role": "user", "content": self.turns[earlier].user})
            messages.append({"role": "assistant", "content": self.turns[earlier].reply(reply)})
        messages.append({"role": "user", "content": self.turns[turn].user})
        if branch is not None:
            messages.append({"role": "assistant", "content": self.turns[turn].reply(branch)})
        return messages

    def record(self) -> dict[str, JSON]:
        """As a plain dict, which `parse` reads back; optional fields that are None are left out."""
        turns = (turn.model_dump() for turn in self.turns)
        optional = ("hinted", "shown_first", "favoured_first", "favoured_second", "follows", "after")
        record: dict[str, JSON] = self.model_dump(exclude={"turns"} if self.system is not None else {"turns", "system"})
        record["turns"] = [{k: v for k, v in turn.items() if k not in optional or v is not None} for turn in turns]
        return record

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.record(), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "conversation") -> Conversation:
        """Read what `to_json` wrote. Raises AloeError that names `where` and the field."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise AloeError(f"{where}: not valid JSON ({error})") from None
        return cls.parse(value, where)
