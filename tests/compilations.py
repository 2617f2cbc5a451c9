"""Which programs JAX compiles, counted by the name of the compiled function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"
_watched: list[Counter[str]] = []


def _count(event: str, duration: float, **details: object) -> None:
    if event == _EVENT:
        for counter in _watched:
            counter[str(details["fun_name"]).removeprefix("jit(").removesuffix(")")] += 1


jax.monitoring.register_event_duration_secs_listener(_count)  # for good: JAX has no public way to take one back


@contextmanager
def compilations() -> Iterator[Counter[str]]:
    """How many programs of each function are compiled, or read from the cache on disk, within the block."""
    counter: Counter[str] = Counter()
    _watched.append(counter)
    try:
        yield counter

        def probe() -> int:
            return 0

        jax.jit(probe)()
        assert counter.pop("probe", 0) == 1, "JAX reports compilations in another way now: nothing would be counted"
    finally:
        _watched.remove(counter)
