"""`datagen personas`: grow the pools and draw the personas."""

from __future__ import annotations

import click

from aloe_jax.cli.command import Command
from aloe_jax.cli.configured import LIMITS, configured, stop_at_limit
from datagen.settings import DatagenSettings


@click.command(cls=Command)
@click.option("--dry-run", is_flag=True, help="Show expected calls, tokens and cost; ask nothing.")
@configured(DatagenSettings, *LIMITS)
def main(settings: DatagenSettings, dry_run: bool) -> None:
    """Grow the pools of profiles and personalities and draw the personas.

    A writer is shown a few random members and asked for more; candidates that resemble a member are refused.
    The benchmark's profiles and personalities are held out: training uses neither.

    \b
    Example:
      python -m datagen personas --config configs/datagen/scripted.yaml personas.profiles=50
    """
    from aloe_jax.llm.budget import BudgetError
    from aloe_jax.progress import Progress, Task
    from aloe_jax.roles import Cast
    from datagen.dry_run import show_estimate
    from datagen.journal import open_journal, print_if_simulated
    from datagen.personas import pool_sizes, write_personas
    from datagen.pool.growth import SaturatedError, curve_text
    from datagen.pool.seeds import seed_texts

    seeds = seed_texts(settings)
    if dry_run:
        show_estimate(settings, seeds)
        return
    with open_journal(settings, create=True) as ledger, Progress(ledger) as progress:
        tasks: dict[str, Task] = {}

        def show(name: str, size: int, target: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add(name, target)
            tasks[name].done = size

        cast = Cast(settings.roles, ledger, only=("persona_writer",))
        try:
            found, pools = write_personas(ledger, cast, settings, seeds, show)
        except BudgetError as error:
            progress.stop()
            stop_at_limit(str(error))
        except SaturatedError as error:
            progress.stop()
            click.echo(curve_text(error.pool, error.target))
            raise
    if not pools:
        click.echo("The journal holds the personas already.")
    for name, pool in pools.items():
        refused = pool.refused + pool.unanswered
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in refused.most_common())
        click.echo(f"{name}: {len(pool.members):,} in {pool.calls:,} calls; refused: {reasons or 'none'}")
        if pool.calls > 4:  # before that there is no curve to see
            click.echo(curve_text(pool, pool_sizes(settings)[name]))
    click.echo(f"{len(found.training):,} training personas, {len(found.benchmark):,} benchmark personas")
    print_if_simulated(settings)
