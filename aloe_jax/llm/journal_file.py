"""The SQLite file under a journal: opened for one writer or for readers anywhere, checked, and brought up to date.

Every row has a checksum over all of its values. When a journal is opened it is checked: a file of up to CHECKED_WHOLE
bytes whole, by `integrity_check` and row by row (0.7 s for 75,000 calls in 30 MB); of a larger one the structure, by
`quick_check` (1 s a gigabyte), and rows as they are read. A journal of version 2 has no checksums: the first
process that opens it to write adds them, and one that only reads takes it as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import click

from aloe_jax.errors import AloeError
from aloe_jax.storage.locks import Lock

APPLICATION = 0x414C4F45  # "ALOE", in the header of the file
VERSION = 3
WITHOUT_CHECKSUMS = 2  # the version before
_SMALLEST, _EMPTY = 512, 4096  # bytes of a page of SQLite's, and of a file without a table
CHECKED_WHOLE = 128 << 20  # bytes of a file in which every row is checked when it is opened
TABLES = """
CREATE TABLE calls (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, role TEXT NOT NULL, text TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    outcome TEXT NOT NULL, detail TEXT NOT NULL, cost REAL, seconds REAL NOT NULL, attempts INTEGER NOT NULL,
    finished REAL NOT NULL, checksum BLOB
) WITHOUT ROWID;
CREATE TABLE faults (
    model TEXT NOT NULL, role TEXT NOT NULL, fault TEXT NOT NULL, count INTEGER NOT NULL, checksum BLOB,
    PRIMARY KEY (model, role, fault)
) WITHOUT ROWID;
CREATE TABLE records (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, id TEXT NOT NULL, value TEXT NOT NULL, checksum BLOB,
    UNIQUE (kind, id)
);
CREATE TABLE vectors (
    model TEXT NOT NULL, text TEXT NOT NULL, vector BLOB NOT NULL, checksum BLOB, PRIMARY KEY (model, text)
) WITHOUT ROWID;
"""
# The columns that a checksum is over, and those that name a row.
COLUMNS = {
    "calls": "key, model, role, text, input_tokens, output_tokens, outcome, detail, cost, seconds, attempts, finished",
    "faults": "model, role, fault, count",
    "records": "kind, id, value",
    "vectors": "model, text, vector",
}
_NAMED = {"calls": "key", "faults": "model, role, fault", "records": "kind, id", "vectors": "model, text"}

_HALF = re.compile("[\ud800-\udfff]")  # what stands for a byte that is no text
# What a value may be where it is not text.
_NUMBERS: dict[str, tuple[type, ...]] = {
    "input_tokens": (int,),
    "output_tokens": (int,),
    "attempts": (int,),
    "count": (int,),
    "cost": (int, float, type(None)),
    "seconds": (int, float),
    "finished": (int, float),
    "vector": (bytes,),
}

Value = str | int | float | bytes | None
Row = tuple[Value, ...]  # as SQLite gives it


def checksum(table: str, values: Sequence[Value]) -> bytes:
    """Eight bytes that change with any change of a row's values or of their types."""
    # JSON distinguishes text from numbers and whole numbers from others, and is written quickly.
    written = table + json.dumps(values, default=lambda value: {"bytes": value.hex()})
    return hashlib.blake2b(written.encode(), digest_size=8).digest()


class JournalFile:
    """A connection to a journal, with what is known of the file."""

    def __init__(self, path: Path, *, writing: bool, report: Callable[[str], None] | None = None) -> None:
        """Open, and create the tables of a new journal. `report` is given a line when an old one is brought up to date.

        Raises AloeError when the file cannot be opened, is no journal, is of another version or is damaged.
        """
        self.path, self.writing = path, writing
        if path.is_file() and 0 < path.stat().st_size < _SMALLEST:  # which SQLite takes for empty, and writes over
            raise AloeError(f"{path}: is no journal (not an SQLite file, or cut to its first bytes); move it away")
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        with explained(path):
            self.database = connect(path) if writing else self._connect_reading()
        try:
            with explained(path):
                self._prepare(report or (lambda line: click.echo(line, err=True)))
        except BaseException:
            self.close()
            raise

    def _connect_reading(self) -> sqlite3.Connection:
        if not self.path.exists():
            raise AloeError(f"{self.path}: there is no journal; give the output directory of a run")
        database = connect(self.path)
        try:
            empty = _number(database, "SELECT count(*) FROM sqlite_master") == 0
        except sqlite3.OperationalError as error:
            database.close()
            if not _refuses_to_write(error):
                raise
            database, self._copy = connect_frozen(self.path)
            return database
        if empty:  # its writer was killed before there was anything in it
            application = _number(database, "PRAGMA application_id")
            if not application and self.path.stat().st_size <= _EMPTY:
                database.close()
                database = connect(":memory:")
                _create(database)
        return database

    def _prepare(self, report: Callable[[str], None]) -> None:
        database, path = self.database, self.path
        # A file of another program must be refused before anything, WAL mode included, is written to it.
        empty = _number(database, "SELECT count(*) FROM sqlite_master") == 0
        application, version = _number(database, "PRAGMA application_id"), _number(database, "PRAGMA user_version")
        if empty and (application or (path.exists() and path.stat().st_size > _EMPTY)):
            raise damaged(path, "its list of tables is empty")
        if not empty and application != APPLICATION:
            raise AloeError(f"{path}: is an SQLite file but no journal of ours; move it away")
        if not empty and version not in (VERSION, WITHOUT_CHECKSUMS):
            raise AloeError(
                f"{path}: journal of version {version}, this program reads version {VERSION}; "
                "start in another output directory"
            )
        if self.writing:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
        if empty:
            with transaction(database):
                # Another process may have created the tables since we looked.
                if _number(database, "SELECT count(*) FROM sqlite_master") == 0:
                    _create(database)
            version = VERSION
        whole = path.stat().st_size <= CHECKED_WHOLE
        self.checked = version != WITHOUT_CHECKSUMS
        self._check_structure(whole)
        if whole:
            for table in COLUMNS:
                for row in database.execute(f"SELECT {self.columns(table)} FROM {table}"):
                    self.verified(table, row)
        if self.writing and not self.checked:
            self._add_checksums(report)
            self.checked = True

    def _check_structure(self, whole: bool) -> None:
        tables = {name for (name,) in self.database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table, columns in COLUMNS.items():
            if table not in tables:
                raise damaged(self.path, f"its table {table} is missing")
            found = {row[1] for row in self.database.execute(f"PRAGMA table_info({table})")} - {"number"}
            if found != {*columns.split(", "), *(["checksum"] if self.checked else [])}:
                raise damaged(self.path, f"the columns of its table {table} are not those of a journal")
        fault = self.database.execute(f"PRAGMA {'integrity' if whole else 'quick'}_check(1)").fetchone()[0]
        if fault != "ok":
            raise damaged(self.path, _plainly(fault))

    def _add_checksums(self, report: Callable[[str], None]) -> None:
        database = self.database
        counts = {table: _number(database, f"SELECT count(*) FROM {table}") for table in COLUMNS}
        with transaction(database):
            for table, columns in COLUMNS.items():
                database.execute(f"ALTER TABLE {table} ADD COLUMN checksum BLOB")
                names = _NAMED[table].split(", ")
                positions = [columns.split(", ").index(name) for name in names]
                update = f"UPDATE {table} SET checksum = ? WHERE {' AND '.join(f'{name} = ?' for name in names)}"
                rows = [
                    (checksum(table, values), *(values[position] for position in positions))
                    for values in database.execute(f"SELECT {columns} FROM {table}")
                ]
                database.executemany(update, rows)
            database.execute(f"PRAGMA user_version = {VERSION}")
        report(
            f"{self.path}: of an earlier version; gave its {counts['calls']:,} calls and {counts['records']:,} "
            "records checksums, which happens once"
        )

    def verified(self, table: str, row: Row) -> Row:
        """The values of a row of COLUMNS and its checksum, as `columns` selects them. Raises AloeError when damaged."""
        values, stored = (row[:-1], row[-1]) if self.checked else (row, None)
        if checksum(table, values) != stored if self.checked else not plausible(table, values):
            raise damaged_row(self.path, table, values)
        return values

    def columns(self, table: str) -> str:
        """What to select for `verified`."""
        return f"{COLUMNS[table]}, checksum" if self.checked else COLUMNS[table]

    def insert(self, table: str, values: Sequence[Value], verb: str = "INSERT OR IGNORE") -> int:
        """Add a row with its checksum; how many were added, 0 or 1."""
        row = (*values, checksum(table, values))
        query = f"{verb} INTO {table} ({COLUMNS[table]}, checksum) VALUES ({', '.join('?' * len(row))})"
        return self.database.execute(query, row).rowcount

    def close(self) -> None:
        """Close the file; its log is folded into it."""
        self.database.close()
        if self._copy is not None:
            self._copy.cleanup()
            self._copy = None


def plausible(table: str, values: Row) -> bool:
    """Whether values are of the types of their columns, and text is text."""
    for name, value in zip(COLUMNS[table].split(", "), values, strict=True):
        if not isinstance(value, _NUMBERS.get(name, (str,))):
            return False
        if isinstance(value, str) and not value.isascii() and _HALF.search(value):
            return False
    return True


def connect(path: str | Path, uri: bool = False) -> sqlite3.Connection:
    """A connection of ours, without a look at what is in the file."""
    # Autocommit: each statement outside BEGIN is its own transaction.
    database = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False, uri=uri)
    # A damaged text has to be read to be found damaged.
    database.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    return database


def connect_frozen(path: Path) -> tuple[sqlite3.Connection, tempfile.TemporaryDirectory[str] | None]:
    """Open a file to read without writing beside it, as SQLite does even to read; and the copy that is read instead.

    There is a copy where the file has a log that is not folded into it, whose contents would not be seen.
    """
    log = path.with_name(path.name + "-wal")
    if not (log.exists() and log.stat().st_size):
        return connect(f"file:{quote(os.fspath(path.absolute()))}?immutable=1", uri=True), None
    copy = tempfile.TemporaryDirectory(prefix="aloe-journal-")
    copied = Path(copy.name) / path.name
    for source, target in ((path, copied), (log, copied.with_name(log.name))):
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise AloeError(
                f"{source}: cannot be copied to {copied.parent} to be read there ({error.strerror}); set TMPDIR to a "
                "directory with room"
            ) from None
    return connect(copied), copy


def _create(database: sqlite3.Connection) -> None:
    for statement in TABLES.split(";")[:-1]:
        database.execute(statement)
    database.execute(f"PRAGMA application_id = {APPLICATION}")
    database.execute(f"PRAGMA user_version = {VERSION}")


def _number(database: sqlite3.Connection, query: str) -> int:
    return int(database.execute(query).fetchone()[0])


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All of what is written within, or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        # A full disk may have rolled back already.
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def only_writer(path: Path) -> Lock:
    """The lock beside a journal. Raises AloeError naming the process that has it."""

    def busy(owner: str) -> str:
        return f"{path}: another process is writing this journal ({owner}); wait for it or stop it"

    return Lock(path.with_name(path.name + ".lock"), busy)


# ---------------------------------------------------------------- what goes wrong


def damaged(path: Path, what: str) -> AloeError:
    """The error for a damaged journal: what is damaged, and how to save the rest."""
    return AloeError(
        f"{path}: the journal is damaged: {what}; put a copy of it back, or run `python -m aloe_jax.salvage {path}`, "
        "which keeps what can be read, and then the same command, which asks again for what cannot"
    )


def damaged_row(path: Path, table: str, values: Sequence[Value]) -> AloeError:
    """The error for a row that is not as it was written."""
    row = dict(zip(COLUMNS[table].split(", "), values, strict=False))
    shown = {name: _plainly(value)[:60] for name, value in row.items()}
    what = {
        "calls": "call {key} of {role} to {model}",
        "faults": "the count of {fault} of {role} with {model}",
        "records": "{kind} {id}",
        "vectors": "the embedding by {model} of the text {text!r}",
    }[table]
    return damaged(path, f"{what.format_map(shown)} is not as it was written")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into one line."""
    try:
        yield
    except sqlite3.Error as error:
        if "malformed" in str(error) or "no such table" in str(error) or "no such column" in str(error):
            raise damaged(path, _plainly(error)) from None
        raise AloeError(f"{path}: {_explain(error)}") from None
    except UnicodeDecodeError:  # of SQLite's own message, which quotes the file
        raise damaged(path, "its list of tables is not text") from None
    except OverflowError as error:  # a number that is larger than SQLite's
        raise AloeError(f"{path}: the journal cannot hold it ({error})") from None


def _plainly(message: object) -> str:
    """A message that quotes the file, in one line of signs that any terminal has."""
    return " ".join(str(message).split()).encode("ascii", "backslashreplace").decode()[:200]


def _refuses_to_write(error: sqlite3.Error) -> bool:
    return any(part in str(error) for part in ("unable to open", "readonly", "disk I/O error", "full"))


def _explain(error: sqlite3.Error) -> str:
    text = str(error)
    causes = (
        ("disk is full", "the disk is full; free some space and run again, nothing is lost"),
        ("not a database", "is no journal (not an SQLite file); move it away"),
        ("unable to open", "cannot open the journal; give the path of a file in a directory that may be read"),
        ("readonly", "the journal is read-only; make it and its directory writable, or copy it to another disk"),
        ("locked", "another process is writing the journal; wait for it or stop it"),
        ("disk I/O error", "the disk cannot be read or written (I/O error); copy the directory to another disk"),
    )
    return next((say for part, say in causes if part in text), f"the journal cannot be used ({_plainly(text)})")
