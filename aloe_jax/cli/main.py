"""`aloe`, with a subcommand per stage."""

from __future__ import annotations

import click

from aloe_jax.cli.command import LazyGroup

_COMMANDS = ("tokenizer", "train", "sweep", "evaluate", "report", "rate", "chat", "export", "plan", "salvage")
MODULES = {  # subcommand -> the module whose `main` it is
    "datagen": "datagen.cli.group",
    **{name: f"aloe_jax.cli.{name}" for name in _COMMANDS},
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
