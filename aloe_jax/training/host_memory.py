"""Where a step runs on the CPU, the memory of its intermediate arrays stays with the process.

XLA allocates a step's intermediate arrays anew in every call. On Linux a large piece is mapped, cleared page by page as
it is touched, and unmapped again: about a tenth of the time of a step. glibc keeps what is freed where it is asked to,
but for threads other than the first only in areas of 64 MiB: one area for all threads has no such limit.
"""

from __future__ import annotations

import ctypes
import sys

from jax.sharding import Mesh

from aloe_jax.training.callback import Callback, Reached

# Names of mallopt's settings in glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8
NEVER, PAD = 2**31 - 1, 2**27


def use_one_arena() -> None:
    """Have all threads that start from now on allocate from the first one's memory.

    To be called before JAX starts its threads. Where the C library is another one, nothing happens.
    """
    library = _glibc()
    if library is not None:
        library.mallopt(ARENA_MAX, 1)


class KeepFreed(Callback):
    """Has the C library keep what is freed once the first step is compiled, which needs more memory than a step."""

    def __init__(self, mesh: Mesh):
        self._active = mesh.devices.flat[0].platform == "cpu"

    def after(self, reached: Reached) -> None:
        """After the first step."""
        if reached.first and self._active:
            keep_freed()


def keep_freed() -> None:
    """What is free now goes back to the system, what is freed later stays; nothing where it is not glibc."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)
        library.mallopt(MMAP_MAX, 0)
        library.mallopt(TRIM_THRESHOLD, NEVER)
        library.mallopt(TOP_PAD, PAD)


def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if library is not None and all(hasattr(library, n) for n in ("mallopt", "malloc_trim")) else None
