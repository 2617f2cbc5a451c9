"""`python -m datagen`, or `aloe datagen`: a subcommand per stage, imported when it is needed."""

from __future__ import annotations

import click

from aloe_jax.cli.command import LazyGroup

COMMANDS = ("personas", "calibrate", "coverage", "conversations", "build", "stats", "browse", "convert")


@click.group(cls=LazyGroup, modules={name: f"datagen.cli.{name}" for name in COMMANDS})
def main() -> None:
    """Generate personas and preference conversations, and store them as TFDS data sets.

    `personas`, `conversations` and `build` run in this order and share one config file. Whatever is finished
    is in OUTPUT/journal.sqlite, every paid call included: a run that was stopped or killed goes on when the
    same command is given again, and asks nothing twice.

    Exit status: 0 when all is there; 4 when something is missing, and 1 when there is nothing or a model could not be
    reached, with the reasons in the last line; 3 when --max-cost or --max-calls stopped the run, 130 when Ctrl-C did.
    Without a terminal a line at least every 30 seconds says how far it is.

    \b
    Example, the scripted data set (offline, simulated):
      python -m datagen personas      --config configs/datagen/scripted.yaml
      python -m datagen conversations --config configs/datagen/scripted.yaml
      python -m datagen build         --config configs/datagen/scripted.yaml
      python -m datagen stats         --config configs/datagen/scripted.yaml
      python -m datagen browse        --config configs/datagen/scripted.yaml

    \b
    With Gemini, seeing the bill first (the key comes from the environment):
      export GEMINI_API_KEY=...
      python -m datagen personas      --config configs/datagen/gemini.yaml --dry-run
      python -m datagen personas      --config configs/datagen/gemini.yaml --max-cost 2
    """
