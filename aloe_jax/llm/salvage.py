"""What can be read of a damaged journal becomes a journal again: `aloe salvage OUTPUT/journal.sqlite`."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from aloe_jax.errors import AloeError
from aloe_jax.llm import journal_file
from aloe_jax.llm.journal_file import COLUMNS, JournalFile, Row

_DAMAGED = (sqlite3.Error, TypeError, ValueError)  # what reading a damaged file raises


@dataclass(frozen=True)
class Salvaged:
    """What became of a journal's rows, by table, and where the damaged file is now."""

    kept: dict[str, int]
    damaged: dict[str, int]  # read, and found damaged
    unreadable: bool  # parts of the file could not be read, so more may be lost than was counted
    original: Path


def salvage(path: Path) -> Salvaged:
    """Do so. Raises AloeError when the file is no journal or nothing of it can be read, and leaves it as it is then."""
    if not path.is_file():
        raise AloeError(f"{path}: there is no journal; give the path of a journal.sqlite")
    new = path.with_name(f".{path.name}.salvaged")
    lock = journal_file.only_writer(path)
    try:
        _remove(new)
        with journal_file.explained(path):
            damaged, copy = journal_file.connect_frozen(path)
            with closing(damaged):
                if damaged.execute("PRAGMA application_id").fetchone()[0] != journal_file.APPLICATION:
                    raise AloeError(f"{path}: is no journal of ours, or its header is lost; put a copy of it back")
                made = JournalFile(new, writing=True)
                try:
                    counted: dict[str, tuple[int, int]] = {}
                    whole = True
                    for table in COLUMNS:
                        rows = _Rows(damaged, table)
                        with journal_file.transaction(made.database):
                            counted[table] = _copy(rows, made)
                        whole = whole and rows.whole
                finally:
                    made.close()
            if copy is not None:
                copy.cleanup()
        if not any(kept for kept, _ in counted.values()):
            raise AloeError(f"{path}: nothing of the journal can be read; put a copy of it back")
        original = _replace(path, new)
    except OSError as error:
        raise AloeError(f"{new}: cannot be written ({error.strerror}); free some space and run again") from None
    finally:
        _remove(new)
        lock.release(remove=True)
    kept = {table: kept for table, (kept, _) in counted.items()}
    lost = {table: lost for table, (_, lost) in counted.items()}
    return Salvaged(kept, lost, not whole, original)


class _Rows:
    """The rows of a table that can be read, with their checksums where the table has them; `whole` when all could."""

    def __init__(self, database: sqlite3.Connection, table: str) -> None:
        self.table, self.whole = table, True
        self._database, self._columns = database, COLUMNS[table]
        with suppress(*_DAMAGED):
            names = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
            if "checksum" in names:
                self._columns += ", checksum"

    def __iter__(self) -> Iterator[Row]:
        """In order; from the end, and piece by piece, where a damaged page is in the way."""
        yield from self._read("")
        if self.whole:
            return
        match self.table:
            case "calls":  # their keys are evenly spread
                for number in range(16**4):
                    yield from self._read("WHERE key >= ? AND key < ?", f"{number:04x}", f"{number:04x}g")
            case "records":
                for number in range(1, self._most() + 1):
                    yield from self._read("WHERE number = ?", number)
            case "vectors":
                yield from self._read("ORDER BY model DESC, text DESC")
            case _:
                yield from self._read("ORDER BY model DESC, role DESC, fault DESC")

    def _read(self, which: str, *values: str | int) -> Iterator[Row]:
        try:
            order = " ORDER BY number" if self.table == "records" and not which else ""
            cursor = self._database.execute(f"SELECT {self._columns} FROM {self.table} {which}{order}", values)
            while (row := cursor.fetchone()) is not None:
                yield row
        except (sqlite3.Error, ValueError):
            self.whole = False

    def _most(self) -> int:
        """The highest number of a record, or one that is surely higher."""
        with suppress(*_DAMAGED):
            return int(self._database.execute("SELECT max(number) FROM records").fetchone()[0] or 0)
        with suppress(*_DAMAGED):  # a record takes some 10 bytes at least
            pages = self._database.execute("PRAGMA page_count").fetchone()[0]
            return min(10_000_000, int(pages) * 400)
        return 0


def _copy(rows: _Rows, made: JournalFile) -> tuple[int, int]:
    """Put the undamaged rows into a new journal; how many, and how many were damaged."""
    table, width = rows.table, len(COLUMNS[rows.table].split(", "))
    seen: set[bytes] = set()
    kept = damaged = 0
    for row in rows:
        values = row[:width]
        found = journal_file.checksum(table, values)
        if found in seen:  # read before, from the other end
            continue
        seen.add(found)
        whole = len(row) == width or row[width] == found
        if not (whole and journal_file.plausible(table, values) and _readable(table, values)):
            damaged += 1
            continue
        kept += made.insert(table, values)
    return kept, damaged


def _readable(table: str, values: Row) -> bool:
    """Whether a record is JSON, which is some evidence where there are no checksums."""
    if table != "records":
        return True
    try:
        return isinstance(values[2], str) and isinstance(json.loads(values[2]), dict)
    except (ValueError, RecursionError):
        return False


def _replace(path: Path, new: Path) -> Path:
    """Replace the damaged journal by the new one; returns where the damaged one is now."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged{'' if number == 1 else f'-{number}'}")).exists():
        number += 1
    try:
        os.link(path, aside)
    except OSError:  # a disk without links
        shutil.copy2(path, aside)
    log = path.with_name(path.name + "-wal")
    if log.exists():  # it would be read as the new file's
        log.rename(aside.with_name(aside.name + "-wal"))
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    os.replace(new, path)
    return aside


def _remove(file: Path) -> None:
    with suppress(OSError):
        for name in (file.name, f"{file.name}-wal", f"{file.name}-shm"):
            file.with_name(name).unlink(missing_ok=True)
