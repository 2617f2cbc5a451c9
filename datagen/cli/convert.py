"""`datagen convert`: conversations from one file format to another."""

from __future__ import annotations

from typing import get_args

import click

from aloe_jax.cli.command import Command
from datagen.convert import FORMATS, Format
from datagen.convert import convert as run
from datagen.convert.chat_lines import Lines


@click.command(cls=Command)
@click.argument("source")
@click.argument("target")
@click.option("--from", "source_format", required=True, type=click.Choice(FORMATS), help="Format of SOURCE.")
@click.option("--to", "target_format", required=True, type=click.Choice(FORMATS), help="Format of TARGET.")
@click.option("--lines", type=click.Choice(get_args(Lines)), help="With --to chat: what a line is [turn].")
@click.option("--split", help="Of a TFDS directory as SOURCE [train].")
def main(
    source: str, target: str, source_format: Format, target_format: Format, lines: Lines | None, split: str | None
) -> None:
    """Convert conversations between file formats, one JSON record a line; says what TARGET cannot hold.

    ours: everything, also from a TFDS directory. aloe: the published format. trl: preference rows, one a pair.
    chat: messages only; a conversation a line follows the continued replies, which are not all preferred.
    pool: persona texts (JSON strings, or one a line in a .txt file).

    \b
    Example:
      python -m datagen convert published.jsonl ours.jsonl --from aloe --to ours
      python -m datagen convert OUTPUT/tfds/aloe_trees/1.0.0 train.jsonl --from ours --to trl --split train
      python -m datagen convert profile.jsonl seeds/profiles.txt --from pool --to pool
    """
    done = run(source, source_format, target, target_format, lines=lines, split=split)
    what = "texts" if source_format == "pool" else "conversations"
    click.echo(f"{target}: {done.written:,} lines from {done.read:,} {what}")
    for lost, count in done.lost.most_common():
        click.echo(f"not kept by {target_format}: {count:,} {lost}", err=True)
