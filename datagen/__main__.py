"""`python -m datagen`: personas, conversations, build, stats."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from aloe_jax import config
from aloe_jax.command import configured

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from datagen.conversations import Outcome


@click.group()
def main() -> None:
    """Generate personas and preference conversations, and store them as TFDS data sets.

    The four commands run in the order below and share one config file. Whatever is finished lies in
    OUTPUT/journal.sqlite: a run that was stopped or killed goes on when the same command is given again.

    \b
    Example, the scripted data set (offline, simulated):
      python -m datagen personas      --config configs/datagen/scripted.yaml
      python -m datagen conversations --config configs/datagen/scripted.yaml
      python -m datagen build         --config configs/datagen/scripted.yaml
      python -m datagen stats         --config configs/datagen/scripted.yaml
    """


@main.command()
@configured(config.Datagen)
def personas(settings: config.Datagen) -> None:
    """Grow the pools of profiles and personalities and draw the personas.

    A writer is shown a few random members and asked for more; candidates that resemble a member are refused.
    The benchmark's profiles and personalities are held out: training uses neither.

    \b
    Example:
      python -m datagen personas --config configs/datagen/scripted.yaml personas.profiles=50
    """
    from aloe_jax.llm.world import seed_personalities, seed_profiles
    from aloe_jax.roles import Cast
    from datagen.journal import open_journal
    from datagen.personas import write_personas

    with open_journal(settings, create=True) as ledger, _progress() as progress:
        tasks: dict[str, TaskID] = {}

        def show(name: str, size: int, target: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=target)
            progress.update(tasks[name], completed=size)

        found, pools = write_personas(
            ledger,
            Cast(settings.roles, ledger),
            settings,
            (seed_profiles(), seed_personalities()),
            show,
        )
    if not pools:
        click.echo("The journal holds the personas already.")
    for name, pool in pools.items():
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in pool.refused.most_common())
        click.echo(f"{name}: {len(pool.members):,} in {pool.calls:,} calls; refused: {reasons or 'none'}")
    click.echo(f"{len(found.training):,} training personas, {len(found.benchmark):,} benchmark personas")
    _label(settings)


@main.command()
@configured(config.Datagen)
def conversations(settings: config.Datagen) -> None:
    """Write the conversation trees: two replies a turn, one preferred.

    Needs `personas` first. Ctrl-C finishes the conversations in hand; the same command goes on later.

    \b
    Example:
      python -m datagen conversations --config configs/datagen/scripted.yaml conversations.count=100
    """
    from aloe_jax.roles import Cast
    from datagen.conversations import write_conversations
    from datagen.journal import open_journal
    from datagen.personas import recorded_personas

    with open_journal(settings) as ledger:
        found = recorded_personas(ledger, settings)
        with _progress() as progress:
            task = progress.add_task("conversations", total=settings.conversations.count)

            def show(outcome: Outcome) -> None:
                name = "finishing those in hand" if outcome.stopping else "conversations"
                done = outcome.already + outcome.written + outcome.skipped.total()
                progress.update(task, description=name, completed=done)

            outcome = write_conversations(ledger, Cast(settings.roles, ledger), found.training, settings, show)
    click.echo(f"{outcome.written:,} conversations written, {outcome.already:,} were there already")
    for reason, count in outcome.skipped.most_common():
        click.echo(f"{count:,} skipped: {reason}")
    if outcome.skipped:
        click.echo("The same command tries the skipped ones again.")
    _label(settings)
    if outcome.left:
        click.echo(f"Stopped with {outcome.left:,} to go; the same command goes on from here.", err=True)
        sys.exit(130)


@main.command()
@configured(config.Datagen)
def build(settings: config.Datagen) -> None:
    """Write the journal's records as TFDS data sets under OUTPUT/tfds.

    aloe_personas has the splits train and benchmark, aloe_trees train and validation; validation holds
    profiles of its own. May be run again at any time, also before all conversations are written.

    \b
    Example:
      python -m datagen build --config configs/datagen/scripted.yaml
    """
    from datagen.build import build as write
    from datagen.journal import open_journal

    with open_journal(settings) as ledger:
        for path, counts in write(ledger, settings).items():
            click.echo(f"{path}: " + ", ".join(f"{count:,} {split}" for split, count in counts.items()))
    _label(settings)


@main.command()
@configured(config.Datagen)
def stats(settings: config.Datagen) -> None:
    """Show pool sizes, conversations turn by turn, skips and calls.

    \b
    Example:
      python -m datagen stats --config configs/datagen/scripted.yaml
    """
    from rich.console import Console

    from datagen.journal import open_journal
    from datagen.stats import tables

    with open_journal(settings) as ledger:
        for table in tables(ledger, settings):
            Console().print(table)
    _label(settings)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A progress display on stderr, which leaves stdout to the results."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield progress


def _label(settings: config.Datagen) -> None:
    from datagen.journal import SIMULATED, is_simulated

    if is_simulated(settings):
        click.echo(SIMULATED)


if __name__ == "__main__":
    main(prog_name="python -m datagen")
