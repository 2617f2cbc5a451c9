"""Names of objects in a bucket, which may hold anything, as names of files below a directory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aloe_jax.errors import AloeError
from aloe_jax.faults import one_line


def as_files(root: object, names: Iterable[str]) -> list[str]:
    """The names, from `root`, if every one is that of a file below it: nothing is written elsewhere or twice.

    Raises AloeError naming the first that is none: with an empty part, `.` or `..` in it, with a backslash or a NUL,
    or the name of a directory that another one needs.
    """
    found = list(names)
    for name in found:
        why = _unfit(name)
        if why is not None:
            raise AloeError(f"{root}: holds an object named {one_line(name)!r}, {why}; rename or remove it")
    files = set(found)
    for name in found:
        parts = name.split("/")
        for count in range(1, len(parts)):
            if (above := "/".join(parts[:count])) in files:
                raise AloeError(
                    f"{root}: holds the objects {above!r} and {one_line(name)!r}, of which a disk can have one only; "
                    "rename or remove one of them"
                )
    return found


def without_markers(sizes: Mapping[str, int]) -> list[str]:
    """The names without the empty objects that consoles make to show a directory: `models/` of 0 bytes."""
    return [name for name, size in sizes.items() if size or not (name == "" or name.endswith("/"))]


def _unfit(name: str) -> str | None:
    if "\0" in name:
        return "which holds a NUL character"
    if "\\" in name:
        return "which holds a backslash, on some machines a way to another directory"
    parts = name.split("/")
    if ".." in parts or "." in parts:
        return "which leads out of the directory"
    if "" in parts:
        return "which begins or ends with a slash, or has two in a row"
    if any(len(part.encode(errors="replace")) > 255 for part in parts):
        return "which is longer than a file's name may be"
    return None
