"""The texts from which the pools start: our own, a directory of the user's, or those of the simulated world."""

from __future__ import annotations

from pathlib import Path

from aloe_jax.errors import AloeError
from aloe_jax.llm.world import seed_personalities, seed_profiles
from datagen.pool.similarity import Kind, fault
from datagen.settings import DatagenSettings

_OWN = Path(__file__).parent


def seed_texts(settings: DatagenSettings) -> tuple[list[str], list[str]]:
    """The profiles and the personalities that the pools start from.

    The scripted writer reads nothing but texts of its own world, so it has seeds of its own. Raises AloeError
    when `personas.seeds` is given for it, and for a file that is missing or holds a line that is no description.
    """
    given = settings.personas.seeds
    if settings.roles.persona_writer.entry.simulated:
        if given is not None:
            raise AloeError(
                f"personas.seeds: {given!r} cannot be used, because the provider of roles.persona_writer, scripted, "
                "reads only texts of its simulated world; leave personas.seeds out or choose another provider"
            )
        return seed_profiles(), seed_personalities()
    directory = _OWN if given is None else Path(given)
    return read_seeds(directory / "profiles.txt", "profiles"), read_seeds(
        directory / "personalities.txt", "personalities"
    )


def read_seeds(path: Path, kind: Kind) -> list[str]:
    """The descriptions in a UTF-8 file, one a line, white space normalised; empty lines are passed over.

    Raises AloeError naming the file, and the line that is no description or repeats an earlier one.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AloeError(
            f"{path}: cannot read the seeds ({error.strerror}); personas.seeds names a directory with profiles.txt "
            "and personalities.txt, one text a line"
        ) from None
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise AloeError(f"{path} line {line}: is not UTF-8; save the file as UTF-8") from None
    found: dict[str, int] = {}
    for number, text in enumerate([" ".join(line.split()) for line in lines], 1):
        if not text:
            continue
        reason = fault(text, kind)
        if reason:
            raise AloeError(f"{path} line {number}: cannot be one of the {kind} ({reason}); mend or remove it")
        if text in found:
            raise AloeError(f"{path} line {number}: repeats line {found[text]}; remove one of them")
        found[text] = number
    if not found:
        raise AloeError(f"{path}: holds no {kind}; write at least one, one a line")
    return list(found)
