"""Where a step of a small model runs on the CPU, the memory of its intermediate arrays stays with the process."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # names of mallopt's settings in glibc's malloc.h
NEVER = 2**31 - 1


def keep_freed() -> None:
    """Have the C library keep what is freed, from now on; what is free now goes back to the system first.

    XLA allocates a step's intermediate arrays anew in every call, in one piece. On Linux that is mapped, cleared page
    by page as it is touched, and unmapped again: about a tenth of the time of a small model's step. glibc keeps pieces
    of up to 64 MiB for its threads, so that this helps small models only. To be called when all is compiled, which
    needs more memory than a step. Where the C library is another one, nothing happens.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        return
    library.malloc_trim(0)
    library.mallopt(MMAP_MAX, 0)
    library.mallopt(TRIM_THRESHOLD, NEVER)
