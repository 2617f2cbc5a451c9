"""The journal of a data generation run: where it is and which records it has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click
from pydantic import BaseModel

from aloe_jax.coverage import whole_reason
from aloe_jax.errors import AloeError
from aloe_jax.llm.budget import Budget
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.settings import RolesSettings
from datagen.settings import DatagenSettings

# Kinds of records.
BATCH = "pool-batch"  # what one call to the persona writer added to a pool
POOL = "pool"  # id "personas": the finished pools and who is held out; ids "seeds-…": the seeds that a pool kept
CONVERSATION = "conversation"  # a finished conversation under its id
SKIP = "skip"  # why a conversation was given up; id CONVERSATION/NUMBER
JOB = "batch-job"  # a job at a batch service under its label; "batch-job-done" once its answers are journaled
SETTINGS = "settings"  # what the conversations were written with; id "conversations"


def journal_path(settings: DatagenSettings) -> Path:
    """OUTPUT/journal.sqlite."""
    return Path(settings.output) / "journal.sqlite"


def open_journal(settings: DatagenSettings, *, create: bool = False, writing: bool = True) -> Ledger:
    """Open the journal, with the budget of the settings. Raises AloeError when there is none and `create` is False."""
    path = journal_path(settings)
    if not create and not path.is_file():
        raise AloeError(f"{path}: no journal yet; run `python -m datagen personas --config FILE` first")
    return Ledger(path, writing=writing, budget=Budget(settings.max_cost, settings.max_calls))


class Skip(BaseModel):
    """Why a conversation was given up by one run; the next one tries it with other seeds."""

    conversation: str
    reason: str
    # Pairs that were redrawn because the verifier favoured this position in both orders; 0 where nobody counted them.
    favoured_first: int = 0
    favoured_second: int = 0


def recorded_skips(ledger: Ledger) -> list[Skip]:
    """All of them, in the order in which they were noted."""
    return [ledger.read(Skip, SKIP, id, record) for id, record in ledger.all(SKIP).items()]


def open_skips(ledger: Ledger) -> Counter[str]:
    """How many conversations are given up as yet, by the reason of the last run that tried them, the most first."""
    finished = ledger.all(CONVERSATION).keys()
    last = {skip.conversation: skip.reason for skip in recorded_skips(ledger)}
    return Counter(whole_reason(reason) for name, reason in last.items() if name not in finished)


def lost_pairs(ledger: Ledger) -> Counter[str]:
    """Pairs that were redrawn for a contradiction in conversations that are given up as yet, by the favoured position.

    The last run that tried a conversation counts those of earlier runs again, from the journal.
    """
    finished = ledger.all(CONVERSATION).keys()
    last = {skip.conversation: skip for skip in recorded_skips(ledger) if skip.conversation not in finished}
    found = Counter[str]()
    for skip in last.values():
        found.update(first=skip.favoured_first, second=skip.favoured_second)
    return found


def same_settings(path: Path, what: str, recorded: dict[str, object], wanted: dict[str, object]) -> None:
    """Raise AloeError when records were written with other settings than the ones asked for now."""
    for key in sorted(recorded.keys() | wanted.keys()):
        if recorded.get(key) != wanted.get(key):
            raise AloeError(
                f"{path}: its {what} were written with {key}={recorded.get(key)!r}, the config says "
                f"{wanted.get(key)!r}; restore the old value, or give another output directory"
            )


def is_simulated(settings: DatagenSettings) -> bool:
    """Whether any role is played by a simulation instead of a language model."""
    return any(getattr(settings.roles, name).entry.simulated for name in RolesSettings.model_fields)


SIMULATED = "Simulated: the texts come from the scripted provider, not from a language model or from people."


def print_if_simulated(settings: DatagenSettings) -> None:
    """Print where everything was played by a script."""
    if is_simulated(settings):
        click.echo(SIMULATED)
