"""Dialogues of simulated users with a candidate: all cases advance together, one turn at a time.

Every finished turn of all cases is journaled in one transaction before the next one starts, under a key that
holds everything it depends on. A killed run goes on after its last finished turn, and journaled turns of
another model, of other settings or of another persona are never taken for this one's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from aloe_jax.conversation import Message, Persona
from aloe_jax.llm.ledger import Ledger
from aloe_jax.roles import Cast, RoleError, derive_seed

THREADS = 8  # calls to remote models in flight
ATTEMPTS = 3  # at a role's answer that cannot be parsed, each with a seed of its own


@dataclass(frozen=True)
class Reply:
    """A candidate's reply. `ids` are its sampled tokens, end of turn included; none if scripted."""

    text: str
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Exchange:
    """One finished turn."""

    user: str
    reply: Reply


@dataclass
class Dialogue:
    """One case as far as it has come. `stopped` says why there was no further user message, if so."""

    persona: Persona
    exchanges: list[Exchange] = field(default_factory=list)
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


class Candidate(Protocol):
    """What is under test."""

    identity: dict[str, Any]  # JSON; two candidates with equal identities give equal replies

    def reply(self, dialogues: Sequence[Dialogue], users: Sequence[str], seeds: Sequence[int]) -> list[Reply]:
        """One reply for each dialogue and its new user message. A reply depends on its own row only."""
        ...


def converse(
    candidate: Candidate,
    personas: Sequence[Persona],
    cast: Cast,
    ledger: Ledger,
    *,
    turns: int,
    seed: int,
    user: dict[str, Any],
    progress: Callable[[int], None] = lambda exchanges: None,
) -> list[Dialogue]:
    """Let the simulated user of every persona talk to the candidate for `turns` turns.

    `user` describes the user simulator (`describe`) and is part of the journal's keys. `progress` is called
    with the number of exchanges that are done. A case whose user message cannot be parsed in three attempts
    stops there: its later turns have no reply and so no rating. Raises AloeError from candidate and cast.
    """
    keys = [digest(candidate.identity, user, seed, persona.model_dump()) for persona in personas]
    dialogues = [Dialogue(persona, _journaled(ledger, key, turns)) for persona, key in zip(personas, keys, strict=True)]
    for turn in range(turns):
        progress(sum(len(dialogue.exchanges) for dialogue in dialogues))
        waiting = [i for i, d in enumerate(dialogues) if len(d.exchanges) == turn and d.stopped is None]
        messages = threaded(lambda i: _next_message(dialogues[i], cast, seed), waiting)
        for i, message in zip(waiting, messages, strict=True):
            if isinstance(message, RoleError):
                dialogues[i].stopped = f"turn {turn + 1}: {message}"
        asked = [(i, m) for i, m in zip(waiting, messages, strict=True) if isinstance(m, str)]
        if not asked:
            continue
        replies = candidate.reply(
            [dialogues[i] for i, _ in asked],
            [message for _, message in asked],
            [derive_seed(seed, dialogues[i].persona.id, turn) for i, _ in asked],
        )
        exchanges = [(i, Exchange(user, reply)) for (i, user), reply in zip(asked, replies, strict=True)]
        ledger.put_many("exchange", ((f"{keys[i]}/{turn}", _to_record(exchange)) for i, exchange in exchanges))
        for i, exchange in exchanges:
            dialogues[i].exchanges.append(exchange)
    progress(sum(len(dialogue.exchanges) for dialogue in dialogues))
    return dialogues


def persistent[T](ask: Callable[[int], T], *parts: str | int) -> T:
    """`ask(seed)` until its answer parses, at most ATTEMPTS times with seeds derived from `parts`.

    Raises the last RoleError.
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            return ask(derive_seed(*parts, attempt))
        except RoleError:
            continue
    return ask(derive_seed(*parts, ATTEMPTS - 1))


def threaded[S, T](function: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """`function` of every item, in order, with THREADS calls at a time."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, items))


def digest(*parts: Any) -> str:
    """A short content key of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _next_message(dialogue: Dialogue, cast: Cast, seed: int) -> str | RoleError:
    persona, turn, history = dialogue.persona, len(dialogue.exchanges), dialogue.history()
    try:
        # The seed leaves the candidate out: the same persona opens the same way for every one of them.
        return persistent(lambda s: cast.user_message(persona, history, s), seed, "user", persona.id, turn)
    except RoleError as error:
        return error


def _journaled(ledger: Ledger, key: str, turns: int) -> list[Exchange]:
    exchanges: list[Exchange] = []
    for turn in range(turns):
        record = ledger.get("exchange", f"{key}/{turn}")
        if record is None:
            break
        exchanges.append(Exchange(record["user"], Reply(record["reply"], tuple(record["ids"]))))
    return exchanges


def _to_record(exchange: Exchange) -> dict[str, Any]:
    return {"user": exchange.user, "reply": exchange.reply.text, "ids": list(exchange.reply.ids)}
