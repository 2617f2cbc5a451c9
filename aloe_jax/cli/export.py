"""`aloe export`: a trained model as a Hugging Face directory."""

from __future__ import annotations

from typing import get_args

import click

from aloe_jax.cli.command import Command
from aloe_jax.models.settings import DType


@click.command(cls=Command)
@click.option("--checkpoint", required=True, metavar="RUN", help="A run directory, or a Hugging Face directory.")
@click.option("--output", required=True, metavar="DIR", help="Directory to write; an earlier export is replaced.")
@click.option("--step", type=int, help="Checkpoint of the run; by default its newest.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["huggingface", "maxtext"]),
    default="huggingface",
    show_default=True,
    help="What to write; maxtext: a checkpoint that MaxText's load_parameters_path reads.",
)
@click.option("--dtype", type=click.Choice(get_args(DType)), help="Of the weights; by default the run's.")
@click.option("--max-shard-size", default="5GB", show_default=True, help="Largest safetensors file.")
@click.option("--metrics", metavar="FILE", help="metrics.json of a benchmark, for the model card.")
@click.option("--adapter", is_flag=True, help="Of a run with model.lora: only its adapters, as peft reads them.")
@click.option("--base", metavar="DIR_OR_NAME", help="With --adapter: the Hugging Face model they belong to.")
def main(
    checkpoint: str,
    output: str,
    step: int | None,
    form: str,
    dtype: str | None,
    max_shard_size: str,
    metrics: str | None,
    adapter: bool,
    base: str | None,
) -> None:
    """Write a model as safetensors with config.json, tokenizer and a model card.

    Adapters of a run with model.lora are added to the weights they were trained beside; with --adapter they are
    written alone, as a directory that peft loads.

    transformers and the servers that read its format load the directory. What was written is read back and
    compared before it takes its name. The card states base model, data, settings and licence, and, when a
    benchmark's metrics.json is given or is in benchmark/ beside the run, how the model scored.

    With --format maxtext a model of MaxText's, or a Hugging Face directory of a family that it has, becomes a
    checkpoint of its own, DIR/0/items, with the arguments to read it by in DIR/maxtext.txt.

    Example: python -m aloe_jax.export --checkpoint runs/demo/dpo --output runs/demo/export --dtype bfloat16
    """
    if base is not None and not adapter:
        raise click.UsageError("--base belongs to --adapter")
    if adapter and form == "maxtext":
        raise click.UsageError("--adapter is for Hugging Face's format; leave --format out")
    from aloe_jax.publishing.export import export

    size = export(checkpoint, output, step, dtype, max_shard_size, metrics, adapter, base, form)
    click.echo(f"{output}: {size:,} parameters")
