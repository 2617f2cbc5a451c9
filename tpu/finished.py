"""Whether the training run of a config is complete: status 0 when it is, 1 when there is more to do.

Example: python tpu/finished.py --config configs/demo/dpo.yaml output=gs://my-bucket/runs/dpo
"""

from __future__ import annotations

import sys

import click

from aloe_jax.cli.command import Command
from aloe_jax.cli.configured import configured
from aloe_jax.models.run_directory import is_finished
from aloe_jax.training.settings import TrainSettings


@click.command(cls=Command)
@configured(TrainSettings)
def main(settings: TrainSettings) -> None:
    """Say whether the training run of a config is complete."""
    done = is_finished(settings.output)
    click.echo(f"{settings.output}: {'complete' if done else 'not complete'}")
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    main()
