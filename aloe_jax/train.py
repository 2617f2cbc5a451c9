"""`python -m aloe_jax.train`: supervised fine-tuning and direct preference optimisation."""

from __future__ import annotations

import click

from aloe_jax import config
from aloe_jax.command import configured


@click.command()
@configured(config.Train)
@click.option("--dry-run", is_flag=True, help="Print model, memory, data and steps, then stop.")
def main(settings: config.Train, dry_run: bool) -> None:
    """Train a model on conversation trees, as packed token trees.

    `stage: sft` learns the preferred replies, each in its context; `stage: dpo` learns to prefer them to the
    rejected ones, against the starting model as the frozen reference. The same command resumes a run that was
    stopped or killed. Everything lands in `output`: config.yaml, checkpoints/, metrics.jsonl, tensorboard/, train.log.

    \b
    Examples:
      python -m aloe_jax.train --config configs/demo/dpo.yaml
      python -m aloe_jax.train --config configs/demo/dpo.yaml dpo.beta=0.05 output=runs/beta-0.05
      python -m aloe_jax.train --config configs/demo/dpo.yaml --dry-run
    """
    from aloe_jax.training.loop import run

    run(settings, dry_run)


if __name__ == "__main__":
    main()
