"""Where a step runs on the CPU, the memory of its intermediate arrays stays with the process.

XLA allocates a step's intermediate arrays anew in every call, by itself in one piece. On Linux such a piece is mapped,
cleared page by page as it is touched, and unmapped again: about a tenth of the time of a step. glibc keeps what is
freed, but for threads other than the first only pieces that fit into 64 MiB.
"""

from __future__ import annotations

import ctypes
import sys

from jax.sharding import Mesh

PIECE = 48 * 2**20  # bytes of intermediate arrays that are allocated together
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # names of mallopt's settings in glibc's malloc.h
NEVER, ALL = 2**31 - 1, 2**27  # a whole 64 MiB of free memory is less than ALL, and is kept


def in_pieces(mesh: Mesh, largest: int) -> dict[str, int] | None:
    """Options for the compiler with which a step's intermediate arrays come in pieces that can be kept.

    None where no CPU computes, and where the largest array, of so many bytes, is larger than a piece: it would not be
    kept, and the compiler warns of every one.
    """
    if mesh.devices.flat[0].platform != "cpu" or largest > PIECE:
        return None
    return {"xla_multiheap_size_constraint_per_heap": PIECE}


def keep_freed() -> None:
    """Have the C library keep what is freed, from now on; what is free now goes back to the system first.

    To be called when all is compiled, which needs more memory than a step. Where the C library is another one, nothing
    happens.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        return
    library.malloc_trim(0)
    library.mallopt(MMAP_MAX, 0)
    library.mallopt(TRIM_THRESHOLD, NEVER)
    library.mallopt(TOP_PAD, ALL)
