"""Files that grow, such as logs and a journal, of a directory that may be in a bucket, where nothing is appended."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from aloe_jax.errors import AloeError
from aloe_jax.storage.copies import download, send, versions
from aloe_jax.storage.files import PARTIAL, as_path, bucket_errors, is_remote, store_of
from aloe_jax.storage.scratch import scratch


class Mirror:
    """A local directory for files that grow, as a context manager; what is in it is copied to `directory`.

    `local` is where to write: of a local `directory` that is the directory itself, and nothing is copied. Else it is
    a temporary one, which begins with the objects named in `begins` (all of them for None). They are copied by
    `publish`, `every` so many seconds, and at the end.
    """

    def __init__(self, directory: str | Path, begins: Sequence[str] | None = (), every: float | None = None):
        self.directory = as_path(directory)
        self.local = self.directory
        self._temporary = contextlib.ExitStack()
        self._sent: dict[str, tuple[int, int]] = {}
        self._turn, self._over = threading.Lock(), threading.Event()
        if not is_remote(self.directory):
            return
        self.local = self._temporary.enter_context(scratch()) / self.directory.name
        self.local.mkdir()
        found = versions(self.directory)
        wanted = {name: found[name] for name in (found if begins is None else begins) if name in found}
        if wanted:
            shutil.rmtree(self.local)
            download(self.directory, wanted, self.local)
            self._sent = self._changed()
        if every is not None:
            threading.Thread(target=self._publish_every, args=[every], daemon=True).start()

    def publish(self) -> None:
        """Copy what has changed since the last time. Raises AloeError when the bucket cannot be written."""
        if self.local == self.directory:
            return
        with self._turn, bucket_errors(self.directory, "written"), scratch() as still:
            changed = self._changed()
            for name in changed:
                (still / name).parent.mkdir(parents=True, exist_ok=True)
                _snapshot(self.local / name, still / name)
            store, root = store_of(self.directory)
            send(store, still, root, list(changed))
            self._sent |= changed

    def _changed(self) -> dict[str, tuple[int, int]]:
        changed = {}
        for file in self.local.rglob("*"):
            # SQLite's side files belong to the open database; a snapshot has what is in them.
            if file.is_file() and not file.name.endswith((".sqlite-wal", ".sqlite-shm", PARTIAL)):
                beside = [file, file.with_name(f"{file.name}-wal")] if file.suffix == ".sqlite" else [file]
                stats = [part.stat() for part in beside if part.exists()]
                mark = (sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats))
                name = file.relative_to(self.local).as_posix()
                if self._sent.get(name) != mark:
                    changed[name] = mark
        return changed

    def _publish_every(self, seconds: float) -> None:
        while not self._over.wait(seconds):
            with contextlib.suppress(AloeError, OSError):  # reported at the end, if it is still so
                self.publish()

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        try:
            self.publish()
        except AloeError:
            if kind is None:
                raise
        finally:
            self._temporary.close()


def _snapshot(file: Path, target: Path) -> None:
    """A copy of a file as it is now, whole, though it is being written."""
    if file.suffix == ".sqlite":
        with contextlib.closing(sqlite3.connect(file)) as source, contextlib.closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
    else:
        shutil.copyfile(file, target)
