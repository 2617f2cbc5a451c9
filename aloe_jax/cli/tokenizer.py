"""`aloe tokenizer`: a small tokenizer trained on the messages of a data set."""

from __future__ import annotations

from pathlib import Path

import click

from aloe_jax.cli.command import Command


@click.command(cls=Command)
@click.option(
    "--data",
    required=True,
    help="TFDS directory (…/aloe_trees/1.0.0) or JSONL file of conversations, chats or preferences.",
)
@click.option("--output", required=True, help="Directory to write; an earlier tokenizer is replaced.")
@click.option("--vocab", default=1024, show_default=True, help="Size of the vocabulary, special tokens included.")
def main(data: str, output: str, vocab: int) -> None:
    """Train a byte-level BPE tokenizer with a chat template on the messages of a data set.

    Example: python -m aloe_jax.data.tokenizer --data runs/demo/data/tfds/aloe_trees/1.0.0 --output runs/demo/tokenizer
    """
    from aloe_jax.data.tokenizer import KIND, LARGEST, SPECIAL, texts_of, train_tokenizer
    from aloe_jax.errors import AloeError
    from aloe_jax.storage.disk import as_os_error, refusals
    from aloe_jax.storage.files import resolved
    from aloe_jax.storage.replacing import check_replaceable

    least = 256 + len(SPECIAL)
    if not least <= vocab <= LARGEST:
        raise AloeError(
            f"--vocab: is {vocab}, must be from {least} (every byte, and the control tokens) to {LARGEST:,}"
        )
    if (resolved(output).parent / "spec.json").exists():
        raise AloeError(f"{output}: is in the directory of a run, which is read with its tokenizer; give another")
    check_replaceable(output, KIND)
    count, texts = texts_of(data)
    with refusals(Path(output)), as_os_error():
        tokenizer = train_tokenizer(texts, vocab, output)
    click.echo(f"{output}: {len(tokenizer)} tokens, trained on {count} conversations")
