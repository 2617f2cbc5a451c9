"""Dialogues of simulated users with a candidate, and how they are journaled.

Every finished turn is stored under a key that holds everything it depends on. A killed run goes on after its last
finished turn, and stored turns of another model, of other settings or of another persona are never taken for this
one's.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from pydantic import BaseModel

from aloe_jax.benchmark.results import ReplyEnd
from aloe_jax.conversation import Message, Persona
from aloe_jax.llm.ledger import Ledger


@dataclass(frozen=True)
class CandidateReply:
    """A candidate's reply. `ids` are the sampled tokens, end of turn included; none where a server sampled it.

    `ended` says why there is no more of it.
    """

    text: str
    ids: tuple[int, ...] = ()
    ended: ReplyEnd = "unknown"


@dataclass(frozen=True)
class NoReply:
    """Why a candidate could not reply: its case ends there."""

    reason: str


@dataclass(frozen=True)
class DialogueTurn:
    """One finished turn."""

    user: str
    reply: CandidateReply


class _JournaledTurn(BaseModel):
    """An exchange as it is stored. Earlier versions did not store why a reply ended."""

    user: str
    reply: str
    ids: list[int]
    ended: ReplyEnd = "unknown"


@dataclass
class Dialogue:
    """One case as far as it has come. `stopped` says why it goes no further, if it ended early."""

    persona: Persona
    exchanges: list[DialogueTurn] = field(default_factory=list)
    stopped: str | None = None

    def history(self, turns: int | None = None) -> list[Message]:
        """The messages of the first `turns` exchanges, all by default."""
        return [
            message
            for exchange in self.exchanges[:turns]
            for message in (
                {"role": "user", "content": exchange.user},
                {"role": "assistant", "content": exchange.reply.text},
            )
        ]

    def path(self, turn: int) -> list[Message]:
        """The messages up to and including the user's at `turn` (0-based)."""
        return [*self.history(turn), {"role": "user", "content": self.exchanges[turn].user}]


class Partner(Protocol):
    """Replies in a fixed set of dialogues, turn after turn."""

    def reply(
        self, dialogues: Sequence[Dialogue], users: Sequence[str], seeds: Sequence[int]
    ) -> list[CandidateReply | NoReply]:
        """One reply for each dialogue and its new user message. A reply depends on its own row only."""
        ...


class Candidate(Protocol):
    """What is under test.

    `rows` is how many dialogues share one session on this machine's accelerator, which serves one session at a
    time; None where every dialogue is answered by itself, from any thread.
    """

    identity: dict[str, object]  # JSON; two candidates with equal identities give equal replies
    rows: int | None

    def partner(self, rows: int) -> Partner:
        """A partner for at most `rows` dialogues."""
        ...


class Journal:
    """The finished turns of one candidate with each persona."""

    def __init__(
        self,
        ledger: Ledger,
        candidate: dict[str, object],
        user: dict[str, object],
        seed: int,
        personas: Sequence[Persona],
    ) -> None:
        """`candidate` is its identity; `user` describes the user simulator (`Cast.describe`)."""
        self._ledger = ledger
        sampling = candidate.get("sampling")  # of a model on this machine
        most = sampling.get("max_new_tokens") if isinstance(sampling, dict) else None
        self._most = most if isinstance(most, int) else None
        self._keys = [digest(candidate, user, seed, persona.model_dump()) for persona in personas]

    def read(self, case: int, turns: int) -> list[DialogueTurn]:
        """The first turns of a case, as far as they are stored without a gap."""
        exchanges: list[DialogueTurn] = []
        for turn in range(turns):
            found = self._stored(case, turn)
            if found is None:
                break
            reply = CandidateReply(found.reply, tuple(found.ids), self._ended(found))
            exchanges.append(DialogueTurn(found.user, reply))
        return exchanges

    def _stored(self, case: int, turn: int) -> _JournaledTurn | None:
        id = f"{self._keys[case]}/{turn}"
        record = self._ledger.get("exchange", id)
        return None if record is None else self._ledger.read(_JournaledTurn, "exchange", id, record)

    def _ended(self, stored: _JournaledTurn) -> ReplyEnd:
        """Why a reply ended. Where an earlier version did not store it, a sampled one's tokens say so.

        `max_length` cuts no reply (`ModelCandidate`): one of fewer than `max_new_tokens` tokens ended by itself.
        """
        if stored.ended != "unknown" or self._most is None or not stored.ids:
            return stored.ended
        if len(stored.ids) < self._most or stored.ids[-1] in self._last_tokens:
            return "stop"
        return "max_new_tokens"

    @cached_property
    def _last_tokens(self) -> frozenset[int]:
        """What replies of fewer than `max_new_tokens` tokens end with: the model's ends of turn, where they occur."""
        found = set()
        for case in range(len(self._keys)):
            for turn in itertools.count():
                stored = self._stored(case, turn)
                if stored is None:
                    break
                if self._most is not None and 0 < len(stored.ids) < self._most and stored.ended in ("unknown", "stop"):
                    found.add(stored.ids[-1])
        return frozenset(found)

    def write(self, turn: int, exchanges: Iterable[tuple[int, DialogueTurn]]) -> None:
        """Store one turn of some cases, all of them or none."""
        records = []
        for case, one in exchanges:
            stored = _JournaledTurn(user=one.user, reply=one.reply.text, ids=list(one.reply.ids), ended=one.reply.ended)
            records.append((f"{self._keys[case]}/{turn}", stored.model_dump()))
        self._ledger.put_many("exchange", records)


def digest(*parts: object) -> str:
    """A short content key of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
