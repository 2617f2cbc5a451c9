"""Turns the journal into the TFDS data sets `aloe_personas` and `aloe_trees`."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aloe_jax.conversation import Conversation, Persona
from aloe_jax.data.tfds_records import stored
from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from aloe_jax.storage.disk import refusals
from datagen.conversations import recorded_conversations
from datagen.journal import is_simulated, lost_pairs, open_skips
from datagen.look.card import card, write_card
from datagen.output_files import alone
from datagen.personas import Personas, recorded_personas
from datagen.settings import DatagenSettings

if TYPE_CHECKING:
    from aloe_jax.llm.ledger import Ledger
    from datagen.records_builder import RecordsBuilder

VERSION = "1.0.0"
_LITTLE = 1 << 16  # bytes free of a disk that is full
Splits = Mapping[str, Sequence[Mapping[str, JSON]]]


def build(ledger: Ledger, settings: DatagenSettings) -> dict[Path, dict[str, int]]:
    """Write both data sets and their card under OUTPUT/tfds; returns their directories with the records per split.

    A data set is written beside its directory and moved there when it is complete, so that a reader finds the
    old or the new one. The same journal gives the same bytes. Raises AloeError when the journal lacks
    personas or conversations, or holds conversations of fewer than two profiles, when another process is building
    there, and when the disk refuses.
    """
    personas = recorded_personas(ledger, settings)
    conversations = recorded_conversations(ledger, personas.training, settings)
    train, validation = split_by_profile(conversations, settings.conversations.validation_fraction, settings.seed)
    provenance = {
        "simulated": is_simulated(settings),
        "seed": settings.seed,
        "roles": {name: getattr(settings.roles, name).shaping() for name in type(settings.roles).model_fields},
    }
    root = Path(settings.output) / "tfds"
    people = {"train": personas.training, "benchmark": personas.benchmark}
    trees = {"train": train, "validation": validation}
    described: Splits = {name: [_persona(persona) for persona in split] for name, split in people.items()}
    records: Splits = {name: [stored(tree) for tree in split] for name, split in trees.items()}
    with alone(root, "building"):
        written = {}
        for name, splits in (("aloe_personas", described), ("aloe_trees", records)):
            written[write_tfds(name, splits, root, provenance)] = {split: len(part) for split, part in splits.items()}
        planned, skipped, lost = settings.conversations.count, open_skips(ledger), lost_pairs(ledger)
        name = Path(settings.output).name
        text = card(people, trees, provenance, name=name, planned=planned, skipped=skipped, lost=lost)
        write_card(root / "README.md", text)
    return written


def split_by_profile(
    conversations: Sequence[Conversation], fraction: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """Split into (train, validation) so that no profile is in both.

    `fraction` of the profiles, drawn by seed, at least one and never all, make up the validation split.
    Raises AloeError when there are fewer than two profiles.
    """
    from aloe_jax.roles import derive_seed

    profiles = sorted({Personas.profile_id(tree.persona) for tree in conversations})
    if len(profiles) < 2:
        raise AloeError(
            f"{len(conversations)} conversations of {len(profiles)} profile(s): the validation split needs a "
            "profile of its own; raise conversations.count and run `python -m datagen conversations` again"
        )
    random.Random(derive_seed(seed, "validation")).shuffle(profiles)
    held_out = set(profiles[: min(max(1, round(fraction * len(profiles))), len(profiles) - 1)])
    train = [tree for tree in conversations if Personas.profile_id(tree.persona) not in held_out]
    validation = [tree for tree in conversations if Personas.profile_id(tree.persona) in held_out]
    return train, validation


def write_tfds(name: str, splits: Splits, root: Path, provenance: Mapping[str, object]) -> Path:
    """Write one data set as ROOT/name/1.0.0 in array_record files and return that directory.

    For one process at a time. Raises AloeError on an empty split, on an id that occurs twice, and when the disk
    refuses.
    """
    for split, records in splits.items():
        if not records:
            raise AloeError(f"{name}: the split {split} would be empty; generate more first")
        refuse_duplicates((str(record["id"]) for record in records), f"{name} split {split}")

    import tensorflow_datasets as tfds

    from datagen.aloe_personas.aloe_personas import AloePersonas
    from datagen.aloe_trees.aloe_trees import AloeTrees

    builders = {"aloe_personas": AloePersonas, "aloe_trees": AloeTrees}
    work, final = root / f".writing-{name}", root / name / VERSION
    _tidy(work, final)  # what a run that was killed has left
    tfds.disable_progress_bar()
    builder = builders[name](records=splits, provenance=provenance, data_dir=work, file_format="array_record")
    try:
        with refusals(final):
            with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints what we say ourselves
                _prepare(builder, final)
            final.parent.mkdir(parents=True, exist_ok=True)
            if final.exists():
                # A directory that holds files cannot be replaced in one step: move it aside first.
                final.rename(work / "replaced")
            (work / name / VERSION).rename(final)
    finally:
        _tidy(work, final)
    return final


def _prepare(builder: RecordsBuilder, final: Path) -> None:
    """Write the data set. The libraries under TFDS have exceptions of their own for a disk that refuses."""
    try:
        builder.download_and_prepare()
    except (AloeError, OSError, UnicodeEncodeError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        if "No space left" in said or shutil.disk_usage(builder.data_path.parent.parent).free < _LITTLE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
        if any(sign in said for sign in ("Read-only file system", "Permission denied", "Input/output error")):
            raise AloeError(f"{final}: cannot be written ({said[:200]}); give an output on another disk") from None
        raise


def _tidy(work: Path, final: Path) -> None:
    """Take a directory of work away; where it has the only data set, moved aside, that goes back first."""
    if (work / "replaced").is_dir() and not final.exists():
        with refusals(final):
            (work / "replaced").rename(final)
    shutil.rmtree(work, ignore_errors=True)


def refuse_duplicates(ids: Iterable[str], where: str) -> None:
    """Raise AloeError naming an id that occurs twice."""
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise AloeError(f"{where}: the id {twice[0]} occurs twice ({len(twice)} such ids)")


def _persona(persona: Persona) -> dict[str, JSON]:
    return persona.model_dump() | {
        "profile_id": Personas.profile_id(persona),
        "personality_id": Personas.personality_id(persona),
    }
