"""`datagen conversations`: write the conversation trees."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, get_args

import click

from aloe_jax.cli.command import INTERRUPTED, Command
from aloe_jax.cli.configured import LIMITS, Shortcut, configured, end, stop_at_limit
from datagen.settings import Branching, DatagenSettings

if TYPE_CHECKING:
    from datagen.conversations import Outcome


@click.command(cls=Command)
@click.option("--dry-run", is_flag=True, help="Show expected calls, tokens and cost; ask nothing.")
@configured(
    DatagenSettings,
    *LIMITS,
    Shortcut("conversations.verify_twice", "Ask the verifier in both orders; drop disagreements.", sets="true"),
    Shortcut(
        "conversations.branch",
        "Answer one reply of a turn or, in the first turns, both.",
        click.Choice(get_args(Branching)),
    ),
)
def main(settings: DatagenSettings, dry_run: bool) -> None:
    """Write the conversation trees: two replies a turn, one preferred.

    Needs `personas` first. Ctrl-C finishes the conversations in hand; the same command goes on later. Exit
    status 3 says that --max-cost or --max-calls stopped the run.

    \b
    Example:
      python -m datagen conversations --config configs/datagen/scripted.yaml conversations.count=100
    """
    from aloe_jax.progress import Progress
    from aloe_jax.roles import Cast
    from datagen.conversations import TALKING_ROLES, write_conversations
    from datagen.dry_run import show_estimate
    from datagen.journal import open_journal, print_if_simulated
    from datagen.personas import recorded_personas
    from datagen.self_preference import models_of, self_preference_warnings
    from datagen.waves import write_in_waves

    for sentence in self_preference_warnings(models_of(settings)):
        click.echo(f"warning: {sentence}", err=True)
    if dry_run:
        show_estimate(settings, None)
        return
    with open_journal(settings) as ledger:
        found = recorded_personas(ledger, settings)
        with Progress(ledger) as progress:
            task = progress.add("conversations", settings.conversations.count)

            def show(outcome: Outcome, doing: str = "conversations") -> None:
                name = "finishing those in hand" if outcome.stopping else doing
                cost = f" ${ledger.budget.cost:,.2f}" if ledger.budget.cost else ""
                done = outcome.already + outcome.written + outcome.skipped.total()
                task.name, task.done = name + cost, done

            if settings.conversations.batch:
                outcome = write_in_waves(ledger, found.training, settings, show)
            else:
                cast = Cast(settings.roles, ledger, only=TALKING_ROLES)
                outcome = write_conversations(ledger, cast, found.training, settings, show)
        spent = ledger.budget
    click.echo(f"{outcome.written:,} conversations written, {outcome.already:,} were there already")
    for reason, count in outcome.skipped.most_common():
        click.echo(f"{count:,} skipped: {reason}")
    if outcome.skipped:
        click.echo("The same command tries the skipped ones again.")
    if outcome.unreachable:
        click.echo(
            f"{outcome.unreachable:,} left because a model was out of reach; the same command goes on with them."
        )
    if spent.cost:
        click.echo(f"{spent.calls:,} calls, ${spent.cost:,.4f}")
    print_if_simulated(settings)
    if outcome.stopped:
        stop_at_limit(f"{outcome.stopped}; {outcome.left:,} to go")
    if outcome.left:
        click.echo(f"Stopped with {outcome.left:,} to go; the same command goes on from there.", err=True)
        sys.exit(INTERRUPTED)
    end([outcome.coverage()], unreachable=bool(outcome.unreachable))
