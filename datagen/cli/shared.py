"""What several commands print."""

from __future__ import annotations

from collections.abc import Sequence

import click

from datagen.settings import DatagenSettings


def show_estimate(settings: DatagenSettings, seeds: tuple[Sequence[str], Sequence[str]] | None) -> None:
    """Print expected calls, tokens and cost: of the personas where `seeds` are given, else of the conversations."""
    from contextlib import nullcontext

    from aloe_jax.llm.cost import cost_table
    from aloe_jax.terminal import console
    from datagen.dry_run import NOTE, estimate_conversations, estimate_personas
    from datagen.journal import journal_path, open_journal
    from datagen.personas import recorded_personas

    known = seeds is None or journal_path(settings).is_file()
    with open_journal(settings, writing=False) if known else nullcontext() as ledger:
        if seeds is not None:
            estimates = estimate_personas(ledger, settings, seeds)
        else:
            assert ledger is not None
            estimates = estimate_conversations(ledger, recorded_personas(ledger, settings).training, settings)
        console().print(cost_table(estimates, NOTE))


def print_if_simulated(settings: DatagenSettings) -> None:
    """Print where everything was played by a script."""
    from datagen.journal import SIMULATED, is_simulated

    if is_simulated(settings):
        click.echo(SIMULATED)
