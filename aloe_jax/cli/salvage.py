"""`aloe salvage`: save what can be read of a damaged journal."""

from __future__ import annotations

from pathlib import Path

import click

from aloe_jax.cli.command import Command


@click.command(cls=Command)
@click.argument("journal", type=click.Path(path_type=Path))
def main(journal: Path) -> None:
    """Replace a damaged journal by one with all that can be read and is as it was written.

    The damaged file is kept beside it, as JOURNAL.damaged. The command that wrote the journal then goes on: it asks
    again for the calls that are lost. Of a damaged finished conversation or rating, its calls are mostly still there,
    and it is put together from them without asking anybody.

    \b
    Example:
      python -m aloe_jax.salvage runs/data/journal.sqlite
    """
    from aloe_jax.llm.salvage import salvage

    done = salvage(journal)
    for table, count in done.kept.items():
        lost = f", {done.damaged[table]:,} damaged" if done.damaged[table] else ""
        click.echo(f"{table}: {count:,} kept{lost}")
    if done.unreadable:
        click.echo("Parts of the file could not be read at all.")
    click.echo(f"{journal} is whole again, the damaged file is {done.original}; give the command of the run again.")
