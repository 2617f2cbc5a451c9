"""What a run starts from, recorded when it begins: nobody puts another model or tokenizer under a run that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import click

from aloe_jax.errors import AloeError
from aloe_jax.llm.world import VERSION as WORLD_VERSION
from aloe_jax.models.checkpoint_files import checkpoint_steps
from aloe_jax.models.fingerprint import fingerprint
from aloe_jax.models.run_directory import SPEC, load_adapter
from aloe_jax.rollouts.rewards import roles_of
from aloe_jax.settings import load_settings
from aloe_jax.storage.files import as_path, write_atomically
from aloe_jax.training.settings import TrainSettings

RECORD = "base.json"  # in the run directory: {setting: {"path", "fingerprint"}}
WORLD = "world"  # in the record of a run that talks to scripted roles: their version when it began
_LONGEST_CHAIN = 50  # runs


def check_base(settings: TrainSettings, directory: Path) -> None:
    """Record the fingerprints of `model.path` and `model.tokenizer`, or compare them where there are checkpoints.

    Raises AloeError naming both fingerprints where another model is at a path now. Called in one process.
    """
    given = {"model.path": settings.model.path, "model.tokenizer": settings.model.tokenizer}
    found = {key: {"path": path, "fingerprint": fingerprint(path)} for key, path in given.items() if path is not None}
    if _talks_to_a_script(settings):
        found[WORLD] = {"path": "scripted", "fingerprint": str(WORLD_VERSION)}
    record = directory / RECORD
    if checkpoint_steps(directory):
        found.pop(WORLD, None)  # that of its beginning, which is not known of runs that earlier versions began
        if record.exists():
            before = _read(record)
            found |= {WORLD: before[WORLD]} if WORLD in before else {}
            _compare(before, found, record)
        elif found:
            load_adapter(directory)  # which compares with what an adapter's run recorded
            click.echo(
                f"{directory}: an earlier version began this run and recorded nothing of {' and '.join(found)}: "
                "whether it is still what the run began with cannot be verified",
                err=True,
            )
    write_atomically(record, json.dumps(found, indent=1) + "\n")


def base_name(path: str | None) -> str | None:
    """The name of the model that the runs behind a policy's `path` started from; None without a path.

    Directories above it are no part of the name. A run whose settings cannot be read ends the line.
    """
    if path is None:
        return None
    for _ in range(_LONGEST_CHAIN):
        where = as_path(path)
        try:
            if not (where / SPEC).exists() or not (where / "config.yaml").exists():
                break
            start = load_settings(TrainSettings, where / "config.yaml").model.path
        except (AloeError, OSError):
            break
        if start is None:
            return None  # trained from scratch
        path = start
    return as_path(path).name


def _talks_to_a_script(settings: TrainSettings) -> bool:
    """Whether the simulated world plays the users, or those who reward, of on-policy training."""
    roles = (settings.roles.user, *(getattr(settings.roles, name) for name in roles_of(settings.rl.rewards)))
    return settings.stage == "rl" and any(role.entry.simulated for role in roles)


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
