"""`datagen build`: the journal's records as TFDS data sets."""

from __future__ import annotations

import click

from aloe_jax.cli.command import Command
from aloe_jax.cli.configured import configured
from datagen.settings import DatagenSettings


@click.command(cls=Command)
@configured(DatagenSettings)
def main(settings: DatagenSettings) -> None:
    """Write the journal's records as TFDS data sets under OUTPUT/tfds.

    aloe_personas has the splits train and benchmark, aloe_trees train and validation; validation holds
    profiles of its own. May be run again at any time, also before all conversations are written.

    \b
    Example:
      python -m datagen build --config configs/datagen/scripted.yaml
    """
    from datagen.build import build as write
    from datagen.journal import open_journal, print_if_simulated

    with open_journal(settings, writing=False) as ledger:
        for path, counts in write(ledger, settings).items():
            click.echo(f"{path}: " + ", ".join(f"{count:,} {split}" for split, count in counts.items()))
    print_if_simulated(settings)
