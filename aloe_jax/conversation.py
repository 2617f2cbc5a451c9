"""Persona, turn and conversation: the types that every stage of the line passes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from aloe_jax.errors import AloeError

Branch = Literal["preferred", "rejected"]
Message = Mapping[str, str]  # {"role": "user" | "assistant", "content": text}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def parse(cls, value: Any, where: str) -> Self:
        """Validate a plain dict. Raises AloeError with `where` (file and record) and the first bad field."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise AloeError(f"{where}: {first_fault(error)}") from None


def first_fault(error: ValidationError) -> str:
    """The first fault of a pydantic error as `field: what is wrong`."""
    fault = error.errors()[0]
    field = ".".join(str(part) for part in fault["loc"]) or "record"
    return f"{field}: {fault['msg'].removeprefix('Value error, ').lower()}"


class Persona(_Record):
    """Who the user is: a profile (daily, objective facts) and a personality (traits)."""

    id: str = Field(min_length=1)
    profile: str = Field(min_length=1)
    personality: str = Field(min_length=1)


class Turn(_Record):
    """One exchange: a user message and its two candidate replies.

    `preferred` and `rejected` are the verifier's judgement; `continued` is the branch that the dialogue
    followed, drawn at random. `hinted` says which of the two was written with the inferred persona as a hidden
    hint; it is None in data that does not record it. The inferred texts are what the user's messages up to
    and including this one had revealed.
    """

    user: str
    preferred: str
    rejected: str
    continued: Branch
    hinted: Branch | None = None
    inferred_profile: str = ""
    inferred_personality: str = ""

    @field_validator("user", "preferred", "rejected")
    @classmethod
    def _not_blank(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("is empty")
        return text

    def reply(self, branch: Branch) -> str:
        """The text of one of the two replies."""
        return self.preferred if branch == "preferred" else self.rejected

    @property
    def plain(self) -> Branch | None:
        """The branch that was written without the hint, where the data records it."""
        if self.hinted is None:
            return None
        return "rejected" if self.hinted == "preferred" else "preferred"


class Conversation(_Record):
    """A conversation tree: at every turn two replies, one of which the user goes on to answer."""

    id: str = Field(min_length=1)
    persona: Persona
    turns: list[Turn] = Field(min_length=1)

    def messages(self, turn: int, branch: Branch | None = None) -> list[Message]:
        """The path up to the user message of `turn` (0-based), and its reply when `branch` is given."""
        path: list[Message] = []
        for earlier in self.turns[:turn]:
            path.append({"role": "user", "content": earlier.user})
            path.append({"role": "assistant", "content": earlier.reply(earlier.continued)})
        path.append({"role": "user", "content": self.turns[turn].user})
        if branch is not None:
            path.append({"role": "assistant", "content": self.turns[turn].reply(branch)})
        return path

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.model_dump(), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "conversation") -> Conversation:
        """Read what `to_json` wrote. Raises AloeError that names `where` and the field."""
        try:
            value = json.loads(text)
        except ValueError as error:
            raise AloeError(f"{where}: not valid JSON ({error})") from None
        return cls.parse(value, where)
