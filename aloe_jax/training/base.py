"""What a run starts from, recorded when it begins: nobody puts another model or tokenizer under a run that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import click

from aloe_jax.errors import AloeError
from aloe_jax.models.checkpoint_files import checkpoint_steps
from aloe_jax.models.fingerprint import fingerprint
from aloe_jax.models.run_directory import load_adapter
from aloe_jax.storage.files import write_atomically
from aloe_jax.training.settings import TrainSettings

RECORD = "base.json"  # in the run directory: {setting: {"path", "fingerprint"}}


def check_base(settings: TrainSettings, directory: Path) -> None:
    """Record the fingerprints of `model.path` and `model.tokenizer`, or compare them where there are checkpoints.

    Raises AloeError naming both fingerprints where another model is at a path now. Called in one process.
    """
    given = {"model.path": settings.model.path, "model.tokenizer": settings.model.tokenizer}
    found = {key: {"path": path, "fingerprint": fingerprint(path)} for key, path in given.items() if path is not None}
    record = directory / RECORD
    if checkpoint_steps(directory):
        if record.exists():
            _compare(_read(record), found, record)
        elif found:
            load_adapter(directory)  # which compares with what an adapter's run recorded
            click.echo(
                f"{directory}: an earlier version began this run and recorded nothing of {' and '.join(found)}: "
                "whether it is still what the run began with cannot be verified",
                err=True,
            )
    write_atomically(record, json.dumps(found, indent=1) + "\n")


def _compare(before: dict[str, dict[str, str]], now: dict[str, dict[str, str]], record: Path) -> None:
    for key, value in now.items():
        known = before.get(key)
        if known is not None and known["fingerprint"] != value["fingerprint"]:
            raise AloeError(
                f"{key}: {value['path']} is not what this run began with: the digest of its files was "
                f"{known['fingerprint']} ({record}), now it is {value['fingerprint']}; restore it, or give another "
                "output"
            )


def _read(record: Path) -> dict[str, dict[str, str]]:
    try:
        values = json.loads(record.read_bytes())
        return {
            str(key): {"path": str(value["path"]), "fingerprint": str(value["fingerprint"])}
            for key, value in values.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise AloeError(
            f"{record}: not the record of what the run began with ({reason}); delete it if that is unchanged"
        ) from None
