"""`aloe train`: supervised fine-tuning and direct preference optimisation."""

from __future__ import annotations

import click

from aloe_jax.cli.command import Command, one_line_errors
from aloe_jax.cli.configured import configured
from aloe_jax.training.settings import TrainSettings

LISTING = "aloe_jax.list_models"


def _list(context: click.Context, option: click.Parameter, value: bool) -> None:
    """Print the models once both options, --list-models and --json, have been read, and stop."""
    given = context.meta.setdefault(LISTING, {})
    given[option.name] = value
    if len(given) < 2 or not given["list_models"]:
        return
    from aloe_jax.planning import catalogue

    with one_line_errors():
        if given["as_json"]:
            click.echo(catalogue.as_json())
        else:
            catalogue.show()
    context.exit()


@click.command(cls=Command)
@configured(TrainSettings)
@click.option("--dry-run", is_flag=True, help="Print model, memory, data and steps, then stop.")
@click.option(
    "--list-models",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list,
    help="Print every model of both backends, its size and what can be done with it, then stop.",
)
@click.option(
    "--json", "as_json", is_flag=True, is_eager=True, expose_value=False, callback=_list,
    help="With --list-models: print JSON.",
)  # fmt: skip
def main(settings: TrainSettings, dry_run: bool) -> None:
    """Train a model on conversation trees, as packed token trees.

    `stage: sft` learns the preferred replies, each in its context; `stage: dpo` learns to prefer them to the
    rejected ones, against the starting model as the frozen reference; `stage: rl` talks to simulated users and learns
    from the replies that it draws itself. The same command resumes a run that was
    stopped or killed. Everything lands in `output`: config.yaml, checkpoints/, metrics.jsonl, tensorboard/, train.log.

    \b
    Examples:
      python -m aloe_jax.train --config configs/demo/dpo.yaml
      python -m aloe_jax.train --config configs/demo/dpo.yaml dpo.beta=0.05 output=runs/beta-0.05
      python -m aloe_jax.train --config configs/demo/dpo.yaml --dry-run
      python -m aloe_jax.train --list-models
    """
    from aloe_jax.training.run import train

    train(settings, dry_run)
