"""`datagen coverage`: what the profiles say, and what nobody says."""

from __future__ import annotations

import click

from aloe_jax.cli.command import Command
from aloe_jax.cli.configured import configured
from datagen.settings import DatagenSettings


@click.command(cls=Command)
@configured(DatagenSettings)
def main(settings: DatagenSettings) -> None:
    """Show what the profiles say of age, gender, work, pastimes, pets and diet, and where nobody is.

    \b
    Example:
      python -m datagen coverage --config configs/datagen/scripted.yaml
    """
    from aloe_jax.terminal import console
    from datagen.journal import open_journal, print_if_simulated
    from datagen.personas import recorded_pools
    from datagen.pool.survey import survey, tables

    with open_journal(settings, writing=False) as ledger:
        profiles = recorded_pools(ledger, settings)["profiles"].members
    for table in tables(survey(profiles)):
        console().print(table)
    print_if_simulated(settings)
