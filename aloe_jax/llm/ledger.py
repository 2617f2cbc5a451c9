"""The journal of a run: every finished call and record in one SQLite file; a rerun repeats none of them."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self  # noqa: TID251  rows as sqlite3 types them

from pydantic import BaseModel, ValidationError

from aloe_jax.conversation import first_fault
from aloe_jax.errors import AloeError
from aloe_jax.llm import journal_file
from aloe_jax.llm.budget import Budget
from aloe_jax.llm.journal_file import JournalFile, Value, explained
from aloe_jax.llm.protocol import LLM, Completion, Request
from aloe_jax.storage.locks import Lock

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Usage:
    """What a model in a role has been asked so far."""

    calls: int
    input_tokens: int
    output_tokens: int
    cost: float | None  # US dollars; None where no call had a price
    seconds: float  # summed latency, attempts and waiting included
    outcomes: dict[str, int]  # "ok", "blocked", "empty", "truncated", "unreadable" -> calls


class Ledger:
    """Append-only journal of calls to language models and of finished records, for several threads at once.

    A value is durable against a killed process when the method that wrote it returns: every write is a
    transaction of its own in SQLite's write-ahead log. (`synchronous=NORMAL`: after a power failure the last
    few transactions may be missing, the file stays whole, and a rerun repeats them.)

    With `writing`, the journal is this process's alone until it is closed; others may read meanwhile. A lock
    that the operating system lifts when a process dies says so, so a killed run leaves nothing to clean up.

    A call that failed (blocked, empty, truncated, unreadable) is kept with what it took, and is no answer: the
    caller goes on to another seed, and finds by `asked_now` whether the call is this process's own.

    Raises AloeError from every method when the file is no journal, is damaged (see journal_file.py), the disk is full,
    or another process is writing.
    """

    def __init__(self, path: str | Path, *, writing: bool = True, budget: Budget | None = None) -> None:
        self.path = Path(path)
        self.budget = budget or Budget()
        self._lock = threading.Lock()
        self._guard: Lock | None = None
        self._in_flight: dict[str, Future[Completion]] = {}
        self._made: set[int] = set()  # the calls of this process, by the beginnings of their keys
        self.retried: Counter[str] = Counter()  # failed attempts of this process by kind
        self.embedding: tuple[int, int] | None = None  # texts embedded, and texts to embed, while that goes on
        if writing:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise AloeError(f"{self.path.parent}: cannot create the directory ({error.strerror})") from None
            self._guard = journal_file.only_writer(self.path)
        try:
            self._store = JournalFile(self.path, writing=writing)
        except BaseException:
            if self._guard is not None:
                self._guard.release(remove=True)  # leave no trace beside a file that is not ours
            raise
        self._database = self._store.database

    # ------------------------------------------------------------ calls

    def complete(self, llm: LLM, request: Request) -> Completion:
        """What came back for `request`: from the journal if it was ever asked, else from `llm`, then stored.

        The same question asked by two threads at once is put to the model once. Errors of the model pass
        through and are not stored. Raises BudgetError instead of a call that the budget does not allow.
        """
        key = request.key(llm.name)
        with self._lock:
            found = self._find(key)
            if found is not None:
                return found
            running = self._in_flight.get(key)
            if running is None:
                mine = self._in_flight[key] = Future()
        if running is not None:
            return running.result()
        try:
            with self.budget.reserved(llm, request) as settle:
                start = time.monotonic()
                completion = _storable(llm.complete(request))
                settle(completion)
                self.keep_call(key, llm.name, request.role, completion, time.monotonic() - start)
        except BaseException as error:
            with self._lock:
                del self._in_flight[key]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._in_flight[key]
        mine.set_result(completion)
        return completion

    def find_call(self, model: str, request: Request) -> Completion | None:
        """What is stored for `request`, or None."""
        with self._lock:
            return self._find(request.key(model))

    def keep_call(self, key: str, model: str, role: str, completion: Completion, seconds: float) -> None:
        """Store a finished call under its request's key, durably; a call that is stored already stays as it is."""
        completion = _storable(completion)
        row: list[Value] = [key, model, role, completion.text, completion.input_tokens, completion.output_tokens]
        row += [completion.outcome, completion.detail, completion.cost, float(seconds), completion.attempts]
        with explained(self.path), self._lock:
            self._store.insert("calls", [*row, time.time()])
            self._made.add(_short(key))

    def asked_now(self, model: str, request: Request) -> bool:
        """Whether this process asked, rather than found the answer in the journal."""
        with self._lock:
            return _short(request.key(model)) in self._made

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return len(self._in_flight)

    @property
    def made(self) -> int:
        """Calls that this process has finished."""
        return len(self._made)

    def count_fault(self, model: str, role: str, fault: str) -> None:
        """Count a failed attempt: an overloaded server, a timeout, an answer that had to be mended."""
        fault = _without_halves(fault)
        with self._transaction():
            self.retried[fault] += 1
            where = "WHERE model = ? AND role = ? AND fault = ?"
            query = f"SELECT {self._store.columns('faults')} FROM faults {where}"
            row = self._database.execute(query, (model, role, fault)).fetchone()
            known: tuple[Any, ...] = self._store.verified("faults", row) if row else (0,)
            count = 1 + known[-1]
            self._store.insert("faults", [model, role, fault, count], "INSERT OR REPLACE")

    def _find(self, key: str) -> Completion | None:
        query = f"SELECT {self._store.columns('calls')} FROM calls WHERE key = ?"
        with explained(self.path):
            row = self._database.execute(query, (key,)).fetchone()
        if row is None:
            return None
        call: tuple[Any, ...] = self._store.verified("calls", row)
        _, _, _, text, spent, written, outcome, detail, cost, _, attempts, _ = call
        return Completion(text, spent, written, outcome, detail, cost, attempts)

    def usage(self) -> dict[str, Usage]:
        """Per `model/role`: what the finished calls took."""
        outcomes: dict[str, dict[str, int]] = {}
        for name, outcome, count in self._read(
            "SELECT model || '/' || role, outcome, count(*) FROM calls GROUP BY model, role, outcome"
        ):
            outcomes.setdefault(name, {})[outcome] = count
        rows = self._read(
            "SELECT model || '/' || role, count(*), sum(input_tokens), sum(output_tokens), sum(cost), sum(seconds) "
            "FROM calls GROUP BY model, role ORDER BY model, role"
        )
        return {
            name: Usage(calls, spent, written, cost, seconds, outcomes[name])
            for name, calls, spent, written, cost, seconds in rows
        }

    def faults(self) -> dict[str, dict[str, int]]:
        """Per `model/role`: failed attempts by kind."""
        counts: dict[str, dict[str, int]] = {}
        for name, fault, count in self._read(
            "SELECT model || '/' || role, fault, count FROM faults ORDER BY model, role, count DESC"
        ):
            counts.setdefault(name, {})[fault] = count
        return counts

    # ------------------------------------------------------------ embeddings

    def vectors(
        self,
        model: str,
        texts: Sequence[str],
        embed: Callable[[list[str]], Sequence[Sequence[float]]],
        batch: int = 100,
    ) -> np.ndarray:
        """Embeddings of `texts`, float32 [len(texts), D]: stored ones, the others from `embed`, stored batch by batch.

        Raises AloeError when `embed` returns another number of vectors than it was given texts.
        """
        import numpy as np

        known: dict[str, bytes] = {}
        for text in dict.fromkeys(texts):
            for row in self._rows("vectors", "WHERE model = ? AND text = ?", model, text):
                if not isinstance(row[2], bytes) or len(row[2]) % 4:
                    raise journal_file.damaged_row(self.path, "vectors", row)
                known[text] = row[2]
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        try:
            for start in range(0, len(missing), batch):
                self.embedding = start, len(missing)
                some = missing[start : start + batch]
                made = embed(some)
                if len(made) != len(some):
                    raise AloeError(f"{model}: returned {len(made)} embeddings for {len(some)} texts")
                new = {text: np.asarray(row, np.float32).tobytes() for text, row in zip(some, made, strict=True)}
                with self._transaction():
                    for text, vector in new.items():
                        self._store.insert("vectors", [model, text, vector])
                known |= new
        finally:
            self.embedding = None
        if len({len(vector) for vector in known.values()}) > 1:
            raise AloeError(f"{self.path}: embeddings of {model} differ in length; start in another output directory")
        return np.stack([np.frombuffer(known[text], np.float32) for text in texts]) if texts else np.zeros((0, 0))

    # ------------------------------------------------------------ records

    def put(self, kind: str, id: str, value: Mapping[str, object], *, replacing: bool = False) -> None:
        """Store a finished record (persona, conversation, rating ...). Durable on return.

        Storing an equal value again does nothing; another value under the same id raises AloeError, unless `replacing`.
        """
        self.put_many(kind, [(id, value)], replacing=replacing)

    def put_many(
        self, kind: str, items: Iterable[tuple[str, Mapping[str, object]]], *, replacing: bool = False
    ) -> None:
        """Store records of one kind in one transaction: all of them or none.

        `replacing` lets them replace others of their ids, such as an earlier version's notes of no answer.
        """
        rows = [
            (kind, id, _without_halves(json.dumps(value, ensure_ascii=False, sort_keys=True))) for id, value in items
        ]
        with self._transaction():
            for row in rows:
                if replacing:
                    self._database.execute("DELETE FROM records WHERE kind = ? AND id = ?", row[:2])
                if self._store.insert("records", row) == 0 and self._stored(*row[:2]) != row[2]:
                    raise AloeError(
                        f"{self.path}: {kind} {row[1]} is already stored with another value; "
                        "start in another output directory"
                    )

    def get(self, kind: str, id: str) -> dict[str, object] | None:
        """The record, or None."""
        with explained(self.path), self._lock:
            text = self._stored(kind, id)
        return None if text is None else self._parsed(kind, id, text)

    def all(self, kind: str) -> dict[str, dict[str, object]]:
        """All records of one kind by id, in the order in which they were stored."""
        rows = self._rows("records", "WHERE kind = ? ORDER BY number", kind)
        return {id: self._parsed(kind, id, text) for _, id, text in rows}

    def read[R: BaseModel](self, form: type[R], kind: str, id: str, value: Mapping[str, object]) -> R:
        """A record as what it should be. Raises AloeError naming it and the field that is wrong."""
        try:
            return form.model_validate(value)
        except ValidationError as error:
            raise journal_file.damaged(self.path, f"{kind} {id}: {first_fault(error)}") from None

    def _stored(self, kind: str, id: str) -> str | None:
        query = f"SELECT {self._store.columns('records')} FROM records WHERE kind = ? AND id = ?"
        row = self._database.execute(query, (kind, id)).fetchone()
        return None if row is None else str(self._store.verified("records", row)[2])

    def _parsed(self, kind: str, id: str, text: object) -> dict[str, object]:
        try:
            value = json.loads(text) if isinstance(text, str) else None
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise journal_file.damaged_row(self.path, "records", (kind, id, ""))
        return value

    # ------------------------------------------------------------ SQLite

    def _read(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        with explained(self.path), self._lock:
            return self._database.execute(query, values).fetchall()

    def _rows(self, table: str, where: str = "", *values: str) -> list[tuple[Any, ...]]:
        """The rows of a table, all of them found undamaged."""
        query = f"SELECT {self._store.columns(table)} FROM {table} {where}"
        return [self._store.verified(table, row) for row in self._read(query, *values)]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with explained(self.path), self._lock, journal_file.transaction(self._database):
            yield

    def close(self) -> None:
        """Close the file; the journal's log is folded into it."""
        with explained(self.path), self._lock:
            self._store.close()
            if self._guard is not None:
                self._guard.release()
                self._guard = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _short(key: str) -> int:
    return int(key[:16], 16)


def _without_halves(text: str) -> str:
    """Without halves of characters (lone surrogates), which no file can store: a question mark for every one."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _storable(completion: Completion) -> Completion:
    """What is stored, and so what every later run finds."""
    text, detail = _without_halves(completion.text), _without_halves(completion.detail)
    return replace(completion, text=text, detail=detail)
