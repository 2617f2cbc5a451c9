"""`datagen calibrate`: find the similarity above which texts are near-copies."""

from __future__ import annotations

from pathlib import Path

import click

from aloe_jax.cli.command import Command
from aloe_jax.cli.configured import configured
from datagen.settings import DatagenSettings


@click.command(cls=Command)
@click.option(
    "--texts", type=click.Path(path_type=Path), help="Calibrate on a file: texts one a line, or JSON strings."
)
@configured(DatagenSettings)
def main(settings: DatagenSettings, texts: Path | None) -> None:
    """Find the personas.similarity that separates near-copies from new texts for personas.vectors.

    Makes near-copies of the pool's own texts (or of the seeds, or of a file) and shows how well thresholds separate
    them from the real ones. Embeddings are paid calls; each text is embedded once.

    \b
    Example:
      python -m datagen calibrate --config configs/datagen/gemini.yaml personas.vectors=gemini
    """
    from aloe_jax.progress import Progress
    from aloe_jax.terminal import console
    from datagen.journal import open_journal
    from datagen.pool.calibrate import calibrate as measure
    from datagen.pool.calibrate import recommend, tables, texts_for
    from datagen.pool.embeddings import vectors_name, vectors_of

    with open_journal(settings, create=True) as ledger, Progress(ledger) as progress:
        vectors = vectors_of(settings, ledger)
        wanted = texts_for(settings, ledger, texts)
        task = progress.add("sets of texts compared", len(wanted))
        found = {}
        for name, some in wanted.items():
            found[name] = measure(some, vectors)
            task.advance()
    for name, calibration in found.items():
        for table in tables(calibration, name):
            console().print(table)
    best = recommend(list(found.values()))
    name = vectors_name(settings)
    click.echo(f"Recommended for {name}: personas.similarity={best:.2f} (now {settings.personas.similarity:g})")
