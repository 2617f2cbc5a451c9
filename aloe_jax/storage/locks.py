"""One writer a file or directory: a lock that the operating system lifts when its process dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from aloe_jax.errors import AloeError
from aloe_jax.storage.files import is_remote


class Lock:
    """An exclusive lock on `file`, which is created where it is missing and names the process that has the lock.

    `busy` makes the message where another process has it, from that process: "process 71 on tower". Raises AloeError
    with it, or when the file cannot be written. A killed process leaves the file, which then locks nothing.
    """

    def __init__(self, file: Path, busy: Callable[[str], str]) -> None:
        self.file = file
        descriptor = self._opened(busy)
        while not self._still_there(descriptor):  # its last owner has removed the file meanwhile
            os.close(descriptor)
            descriptor = self._opened(busy)
        self._descriptor: int | None = descriptor
        with contextlib.suppress(OSError):  # a full disk takes the lock all the same, without a name in it
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def _opened(self, busy: Callable[[str], str]) -> int:
        """The file's descriptor, locked."""
        file = self.file
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise AloeError(f"{file}: cannot be written ({error.strerror})") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 300, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise AloeError(busy(owner or "unknown")) from None
        except OSError as error:  # a file system without locks, such as some mounted buckets
            os.close(descriptor)
            raise AloeError(
                f"{file}: cannot be locked ({error.strerror}); choose a directory on another disk"
            ) from None
        return descriptor

    def _still_there(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.file))
        except FileNotFoundError:
            return False

    def release(self, remove: bool = False) -> None:
        """Lift the lock, and remove its file if asked. Does nothing the second time."""
        if remove and self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.file)  # before the lock is lifted: who has opened the file by then opens it anew
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextlib.contextmanager
def locked(target: Path, doing: str, remove: bool = False) -> Iterator[None]:
    """Be the only process that is `doing` ("training into") a file or directory; the lock's file is beside it.

    It stays there, or with `remove` goes with the lock.

    Raises AloeError naming the target and the process that has it. A path in a bucket cannot be locked and is not.
    """
    if is_remote(target):
        yield
        return
    target = target.absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AloeError(f"{target.parent}: cannot create the directory ({error.strerror})") from None

    def busy(owner: str) -> str:
        return f"{target}: another process is {doing} it ({owner}); wait for it, stop it, or give another path"

    lock = Lock(target.with_name(f".{target.name}.lock"), busy)
    try:
        yield
    finally:
        lock.release(remove)
