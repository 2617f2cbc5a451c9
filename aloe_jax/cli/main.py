"""`aloe`, with a subcommand per stage."""

from __future__ import annotations

import click

from aloe_jax.cli.command import LazyGroup

MODULES = {  # subcommand -> the module whose `main` it is
    "datagen": "datagen.cli.group",
    "tokenizer": "aloe_jax.cli.tokenizer",
    "train": "aloe_jax.cli.train",
    "evaluate": "aloe_jax.cli.evaluate",
    "report": "aloe_jax.cli.report",
    "rate": "aloe_jax.cli.rate",
    "chat": "aloe_jax.cli.chat",
    "export": "aloe_jax.cli.export",
    "plan": "aloe_jax.cli.plan",
    "salvage": "aloe_jax.cli.salvage",
    "demo": "aloe_jax.demo.run",
}


@click.group(cls=LazyGroup, modules=MODULES)
def main() -> None:
    """Train language models to infer and follow one person's preferences over a conversation.

    `aloe NAME` is the same as `python -m aloe_jax.NAME`, and `aloe datagen` the same as `python -m datagen`.

    \b
    Example:
      aloe train --config configs/demo/dpo.yaml
    """
