"""`datagen stats`: numbers of a run."""

from __future__ import annotations

import click

from aloe_jax.cli.command import Command
from aloe_jax.cli.configured import configured
from datagen.settings import DatagenSettings


@click.command(cls=Command)
@configured(DatagenSettings)
def main(settings: DatagenSettings) -> None:
    """Show pools and their coverage, conversations turn by turn, quality, skips, calls and what they cost.

    \b
    Example:
      python -m datagen stats --config configs/datagen/scripted.yaml
    """
    from aloe_jax.terminal import console
    from datagen.journal import open_journal, print_if_simulated
    from datagen.look.stats import tables
    from datagen.personas import pool_sizes, recorded_pools
    from datagen.pool.growth import curve_text

    with open_journal(settings, writing=False) as ledger:
        for name, pool in recorded_pools(ledger, settings).items():
            if pool.calls > 4:
                click.echo(curve_text(pool, pool_sizes(settings)[name]))
        for table in tables(ledger, settings):
            console().print(table)
    print_if_simulated(settings)
