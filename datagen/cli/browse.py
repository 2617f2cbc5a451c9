"""`datagen browse`: a page to read personas and trees."""

from __future__ import annotations

from pathlib import Path

import click

from aloe_jax.cli.command import Command
from aloe_jax.settings import load_settings
from datagen.convert import FORMATS, Format
from datagen.settings import DatagenSettings

CONVERSATIONS = click.Choice([name for name in FORMATS if name != "pool"])


@click.command(cls=Command)
@click.option("--data", metavar="PATH", help="A TFDS directory or a file of conversations, instead of a run's journal.")
@click.option(
    "--from", "source_format", default="ours", type=CONVERSATIONS, show_default=True, help="Format of --data."
)
@click.option("--output", metavar="FILE", help="The page to write; default OUTPUT/browse.html.")
@click.option("--config", "path", metavar="FILE", help="YAML file of settings, for the journal in OUTPUT.")
@click.argument("overrides", nargs=-1, metavar="[section.key=value]...")
def main(
    data: str | None, source_format: Format, output: str | None, path: str | None, overrides: tuple[str, ...]
) -> None:
    """Write all personas and trees as one HTML page to read, search and filter, without a network.

    \b
    Example:
      python -m datagen browse --config configs/datagen/scripted.yaml
      python -m datagen browse --data published.jsonl --from aloe --output published.html
    """
    if (path is None) == (data is None):
        raise click.UsageError("give --config FILE (a run) or --data PATH (a data set)")
    if data is not None and output is None:
        raise click.UsageError("--data needs --output FILE, the page to write")
    from datagen.journal import open_journal
    from datagen.look.browse import browse_data, browse_journal

    if data is not None and output is not None:
        written = browse_data(data, Path(output), source_format)
    else:
        assert path is not None
        settings = load_settings(DatagenSettings, path, overrides)
        with open_journal(settings, writing=False) as ledger:
            written = browse_journal(ledger, settings, Path(output) if output else None)
    click.echo(f"{written}: open it in a browser")
