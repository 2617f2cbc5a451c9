"""The journal of a run: every finished call and record in one SQLite file; a rerun repeats none of them."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aloe_jax.errors import AloeError
from aloe_jax.llm.budget import Budget
from aloe_jax.llm.protocol import LLM, Completion, Request
from aloe_jax.locks import Lock

if TYPE_CHECKING:
    import numpy as np

_APPLICATION = 0x414C4F45  # "ALOE", in the header of the file
_VERSION = 2
_TABLES = """
CREATE TABLE calls (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, role TEXT NOT NULL, text TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    outcome TEXT NOT NULL, detail TEXT NOT NULL, cost REAL, seconds REAL NOT NULL, attempts INTEGER NOT NULL,
    finished REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE faults (
    model TEXT NOT NULL, role TEXT NOT NULL, fault TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (model, role, fault)
) WITHOUT ROWID;
CREATE TABLE records (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, id TEXT NOT NULL, value TEXT NOT NULL, UNIQUE (kind, id)
);
CREATE TABLE vectors (
    model TEXT NOT NULL, text TEXT NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (model, text)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Usage:
    """What a model in a role has been asked so far."""

    calls: int
    input_tokens: int
    output_tokens: int
    cost: float | None  # US dollars; None where no call had a price
    seconds: float  # summed latency, attempts and waiting included
    outcomes: dict[str, int]  # "ok", "blocked", "empty", "truncated" -> calls


class Ledger:
    """Append-only journal of calls to language models and of finished records, for several threads at once.

    A value is durable against a killed process when the method that wrote it returns: every write is a
    transaction of its own in SQLite's write-ahead log. (`synchronous=NORMAL`: after a power failure the last
    few transactions may be missing, the file stays whole, and a rerun repeats them.)

    With `writing`, the journal is this process's alone until it is closed; others may read meanwhile. A lock
    that the operating system lifts when a process dies says so, so a killed run leaves nothing to clean up.

    Raises AloeError from every method when the file is no journal, is damaged, the disk is full, or another
    process is writing.
    """

    def __init__(self, path: str | Path, *, writing: bool = True, budget: Budget | None = None) -> None:
        self.path = Path(path)
        self.budget = budget or Budget()
        self._lock = threading.Lock()
        self._guard: Lock | None = None
        self._in_flight: dict[str, Future[Completion]] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AloeError(f"{self.path.parent}: cannot create the directory ({error.strerror})") from None
        if writing:
            self._guard = _lock_out_others(self.path)
        with self._told():
            # Autocommit: each statement outside BEGIN is its own transaction.
            self._database = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            self._open()
        except BaseException:
            self._database.close()
            if self._guard is not None:
                _beside(self.path).unlink()  # leave no trace beside a file that is not ours
            self._unlock()
            raise

    def _open(self) -> None:
        with self._told():
            # A file of another program must be refused before anything, WAL mode included, is written to it.
            empty = self._number("SELECT count(*) FROM sqlite_master") == 0
            application, version = self._number("PRAGMA application_id"), self._number("PRAGMA user_version")
            if not empty and application != _APPLICATION:
                raise AloeError(f"{self.path}: is an SQLite file but no journal of ours; move it away")
            if not empty and version != _VERSION:
                raise AloeError(
                    f"{self.path}: journal of version {version}, this program reads version {_VERSION}; "
                    "start in another output directory"
                )
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
        if empty:
            with self._transaction():
                # Another process may have created the tables since we looked.
                if self._number("SELECT count(*) FROM sqlite_master") == 0:
                    for statement in _TABLES.split(";")[:-1]:
                        self._database.execute(statement)
                    self._database.execute(f"PRAGMA application_id = {_APPLICATION}")
                    self._database.execute(f"PRAGMA user_version = {_VERSION}")

    # ------------------------------------------------------------ calls

    def complete(self, llm: LLM, request: Request) -> Completion:
        """The answer to `request`: from the journal if it was ever given, else from `llm`, then stored.

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
                completion = llm.complete(request)
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
        """The stored answer to `request`, or None."""
        with self._lock:
            return self._find(request.key(model))

    def keep_call(self, key: str, model: str, role: str, completion: Completion, seconds: float) -> None:
        """Store a finished call under its request's key, durably; a call that is stored already stays as it is."""
        row = (
            key,
            model,
            role,
            completion.text,
            completion.input_tokens,
            completion.output_tokens,
            completion.outcome,
            completion.detail,
            completion.cost,
            seconds,
            completion.attempts,
            time.time(),
        )
        with self._told(), self._lock:
            self._database.execute(f"INSERT OR IGNORE INTO calls VALUES ({', '.join('?' * len(row))})", row)

    def count_fault(self, model: str, role: str, fault: str) -> None:
        """Count a failed attempt: an overloaded server, a timeout, an answer that had to be mended."""
        with self._told(), self._lock:
            self._database.execute(
                "INSERT INTO faults VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1",
                (model, role, fault),
            )

    def _find(self, key: str) -> Completion | None:
        with self._told():
            row = self._database.execute(
                "SELECT text, input_tokens, output_tokens, outcome, detail, cost, attempts FROM calls WHERE key = ?",
                (key,),
            ).fetchone()
        return Completion(*row) if row else None

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
            rows = self._read("SELECT vector FROM vectors WHERE model = ? AND text = ?", model, text)
            if rows:
                known[text] = rows[0][0]
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        for start in range(0, len(missing), batch):
            some = missing[start : start + batch]
            made = embed(some)
            if len(made) != len(some):
                raise AloeError(f"{model}: returned {len(made)} embeddings for {len(some)} texts")
            new = {text: np.asarray(row, np.float32).tobytes() for text, row in zip(some, made, strict=True)}
            with self._transaction():
                for text, vector in new.items():
                    self._database.execute("INSERT OR IGNORE INTO vectors VALUES (?, ?, ?)", (model, text, vector))
            known |= new
        if len({len(vector) for vector in known.values()}) > 1:
            raise AloeError(f"{self.path}: embeddings of {model} differ in length; start in another output directory")
        return np.stack([np.frombuffer(known[text], np.float32) for text in texts]) if texts else np.zeros((0, 0))

    # ------------------------------------------------------------ records

    def put(self, kind: str, id: str, value: dict[str, Any]) -> None:
        """Store a finished record (persona, conversation, rating ...). Durable on return.

        Storing an equal value again does nothing; another value under the same id raises AloeError.
        """
        self.put_many(kind, [(id, value)])

    def put_many(self, kind: str, items: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Store records of one kind in one transaction: all of them or none."""
        rows = [(kind, id, json.dumps(value, ensure_ascii=False, sort_keys=True)) for id, value in items]
        with self._transaction():
            for row in rows:
                added = self._database.execute("INSERT OR IGNORE INTO records (kind, id, value) VALUES (?, ?, ?)", row)
                if added.rowcount == 0 and self._stored(kind, row[1]) != row[2]:
                    raise AloeError(
                        f"{self.path}: {kind} {row[1]} is already stored with another value; "
                        "start in another output directory"
                    )

    def get(self, kind: str, id: str) -> dict[str, Any] | None:
        """The record, or None."""
        with self._told(), self._lock:
            text = self._stored(kind, id)
        return None if text is None else json.loads(text)

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """All records of one kind by id, in the order in which they were stored."""
        rows = self._read("SELECT id, value FROM records WHERE kind = ? ORDER BY number", kind)
        return {id: json.loads(value) for id, value in rows}

    def _stored(self, kind: str, id: str) -> str | None:
        row = self._database.execute("SELECT value FROM records WHERE kind = ? AND id = ?", (kind, id)).fetchone()
        return row[0] if row else None

    # ------------------------------------------------------------ SQLite

    def _read(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        with self._told(), self._lock:
            return self._database.execute(query, values).fetchall()

    def _number(self, query: str) -> int:
        return int(self._database.execute(query).fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._told(), self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                # A full disk may have rolled back already.
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise AloeError(f"{self.path}: {_explain(error)}") from None

    def close(self) -> None:
        """Close the file; the journal's log is folded into it."""
        with self._told(), self._lock:
            self._database.close()
            self._unlock()

    def _unlock(self) -> None:
        if self._guard is not None:
            self._guard.release()
            self._guard = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _lock_out_others(path: Path) -> Lock:
    """Take the lock beside the journal, or raise AloeError naming the process that has it."""

    def busy(owner: str) -> str:
        return f"{path}: another process is writing this journal ({owner}); wait for it or stop it"

    return Lock(_beside(path), busy)


def _explain(error: sqlite3.Error) -> str:
    text = str(error)
    causes: list[tuple[Callable[[str], bool], str]] = [
        (lambda t: "disk is full" in t, "the disk is full; free some space and run again, nothing is lost"),
        (lambda t: "not a database" in t, "is no journal (not an SQLite file); move it away"),
        (lambda t: "malformed" in t, "the journal is damaged; restore a copy or start in another directory"),
        (lambda t: "unable to open" in t, "cannot open the journal; give the path of a file in a directory"),
        (lambda t: "readonly" in t, "the journal is read-only; make it and its directory writable"),
        (lambda t: "locked" in t, "another process is writing the journal; wait for it or stop it"),
    ]
    return next((say for fits, say in causes if fits(text)), f"the journal cannot be used ({text})")
