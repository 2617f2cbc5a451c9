"""`aloe sweep`: the same trainings with several seeds, evaluated together."""

from __future__ import annotations

import sys

import click

from aloe_jax.cli.command import Command, debugging
from aloe_jax.cli.configured import configured
from aloe_jax.sweep.settings import SweepSettings


@click.command(cls=Command)
@configured(SweepSettings)
@click.option("--dry-run", is_flag=True, help="Show all runs, how far they are and what they will ask; start nothing.")
def main(settings: SweepSettings, dry_run: bool) -> None:
    """Train with several seeds, evaluate all runs together, and report on recipes instead of single runs.

    Another training seed gives other weights, and other numbers: what holds for a recipe shows over several runs. The
    file lists trainings in their order, each with a config of aloe_jax.train, what differs in it (`set`), what it
    starts from (`start`) and variants (`vary`), the seeds, and a config of aloe_jax.evaluate. All of it is checked
    before the first run starts; every run is a process of its own.

    OUTPUT gets a directory for every run (NAME-sSEED), benchmark/, configs/ with what was run, and report.html. The
    same command goes on from a stop or a kill: no run is trained twice, and results are computed anew from the
    benchmark's journal, which asks for what it lacks only.

    Exit status: 0 when all is there; 4 when ratings of the benchmark are missing; 3 when its limit stopped it.

    \b
    Examples:
      python -m aloe_jax.sweep --config configs/demo/sweep.yaml --dry-run
      python -m aloe_jax.sweep --config configs/demo/sweep.yaml seeds='[0, 1, 2, 3, 4]' output=runs/five
    """
    from aloe_jax.sweep.checks import check_plan
    from aloe_jax.sweep.plan import plan_of

    plan = plan_of(settings)
    check_plan(plan)
    for note in plan.notes:
        click.echo(note)
    if dry_run:
        from aloe_jax.sweep.expected import plan_table
        from aloe_jax.terminal import console

        console().print(plan_table(plan))
        return
    from aloe_jax.sweep.run import run_sweep

    status = run_sweep(plan, {"ALOE_DEBUG": "1"} if debugging() else {})
    if status:
        sys.exit(status)
