"""Reporting to Weights & Biases, for those who ask for it: `wandb: PROJECT`."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from aloe_jax.storage.files import write_atomically

FILE = "wandb.json"  # in the run directory: the run's id there, and the last steps sent before this start


def check_wandb() -> ModuleType:
    """The package `wandb`, able to report. Raises AloeError where it is missing or nobody is logged in.

    Never asks: a run that waits for an answer in the middle of the night has stopped.
    """
    try:
        import wandb
    except ImportError:
        wandb = None
    if not hasattr(wandb, "init"):  # a directory of that name where Python looks for packages imports as well
        raise AloeError("wandb: reporting to Weights & Biases needs its package; run `pip install wandb`")
    try:
        if wandb.setup(wandb.Settings(silent=True)).settings.mode in ("offline", "disabled"):  # as WANDB_MODE says
            return wandb
        known = wandb.login(prompt=False, verify=False)
    except (wandb.Error, ValueError) as error:
        raise _unusable(error) from None
    if not known:
        raise AloeError("wandb: no key of Weights & Biases here; run `wandb login`, or set WANDB_MODE=offline")
    return wandb


class WandbRun:
    """One run at Weights & Biases, which a resumed training goes on with.

    `written` has the last step of every kind of record that earlier starts of this training wrote: they were sent,
    and what is sent cannot be taken back, so those steps are not sent again (they would be the same).
    """

    def __init__(self, project: str, directory: Path, resolved: Mapping[str, JSON], written: Mapping[str, int]):
        wandb = check_wandb()
        path = directory / FILE
        identity, self._sent = secrets.token_hex(4), {}
        if path.exists():
            identity, sent = _read(path)
            self._sent = {kind: max(sent.get(kind, 0), written.get(kind, 0)) for kind in {*sent, *written}}
        write_atomically(path, json.dumps({"id": identity, "sent": self._sent}) + "\n")
        try:
            self._run = wandb.init(
                project=project,
                id=identity,
                name=directory.name,
                resume="allow",
                dir=str(directory),
                config=dict(resolved),
                allow_val_change=True,  # what a resumed run may change, such as its mesh
                # The resolved settings and the numbers are all that leaves this machine: no code, no output, no
                # command line, no environment.
                settings=wandb.Settings(
                    console="off",
                    silent=True,
                    disable_git=True,
                    disable_code=True,
                    disable_job_creation=True,
                    x_disable_meta=True,
                    x_disable_machine_info=True,
                    x_save_requirements=False,
                ),
            )
        except (wandb.Error, ValueError) as error:
            raise _unusable(error) from None
        # Their own step counts calls. Ours is a value: validations may come before the steps that lead to them.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Send one record, unless an earlier start of this training did."""
        # Rates have no record of their own in metrics.jsonl; they belong to steps of training.
        if step > self._sent.get("train" if kind == "speed" else kind, 0):
            self._run.log({f"{kind}/{name}": value for name, value in values.items()} | {"step": step})

    def close(self, failed: bool = False) -> None:
        """Send the rest and mark the run as finished or failed."""
        self._run.finish(exit_code=int(failed))


def _unusable(error: Exception) -> AloeError:
    reason = " ".join(str(error).split())[:200]
    return AloeError(
        f"wandb: Weights & Biases does not answer ({reason}); run `wandb login`, or set WANDB_MODE=offline"
    )


def _read(path: Path) -> tuple[str, dict[str, int]]:
    """The run's id, and the last step of every kind of record that was sent."""
    try:
        known = json.loads(path.read_text())
        return str(known["id"]), {str(kind): int(step) for kind, step in known["sent"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AloeError(f"{path}: not the note of a run at Weights & Biases ({error}); delete it") from None
