"""`aloe evaluate`: the ALOE benchmark, or scores of held-out preferences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aloe_jax.benchmark.settings import EvaluateSettings, PreferencesSettings
from aloe_jax.cli.command import Command, one_line_errors
from aloe_jax.cli.configured import LIMITS, configured, end, stop_at_limit
from aloe_jax.settings import dump_settings
from aloe_jax.storage.files import is_remote

if TYPE_CHECKING:
    from rich.table import Table

    from aloe_jax.coverage import Coverage


def _rescore(context: click.Context, _: click.Parameter, output: str | None) -> None:
    """The option --rescore, which needs no config: the run's own results have its settings."""
    if output is None or context.resilient_parsing:
        return
    with one_line_errors():
        from aloe_jax.benchmark.rescoring import rescored
        from aloe_jax.benchmark.results import write_results
        from aloe_jax.storage.mirror import Mirror

        with Mirror(output, begins=None) as mirror:
            with rescored(mirror.local) as results:
                write_results(mirror.local, results)
            _write_report(mirror.local)
            mirror.publish()
        context.exit()


@click.command(cls=Command)
@configured(EvaluateSettings, *LIMITS, instead={"preferences": PreferencesSettings})
@click.option(
    "--preferences", is_flag=True, help="Score held-out pairs of replies instead; no language model is asked."
)
@click.option(
    "--rescore",
    metavar="OUTPUT",
    is_eager=True,
    expose_value=False,
    callback=_rescore,
    help="Compute the numbers of a finished run anew from its transcripts and settings. Asks nothing, needs no config.",
)
@click.option("--dry-run", is_flag=True, help="Show expected calls, tokens and cost; ask nothing.")
def main(settings: EvaluateSettings | PreferencesSettings, preferences: bool, dry_run: bool) -> None:
    """Let simulated users talk to each model, have every reply rated, and write a report.

    OUTPUT gets report.html, metrics.json, transcripts.jsonl, config.yaml, and journal.sqlite, from which an
    interrupted run goes on when the same command is given again. `python -m aloe_jax.report` puts several runs on
    one page, and writes figures and tables.

    With --preferences: how often each model finds the preferred reply of a held-out pair likelier than the rejected
    one; OUTPUT gets report.html, preferences.json and config.yaml.

    Exit status: 0 when all is there; 4 when ratings, comparisons or pairs are missing, and 1 when there are none, with
    the reasons in the last line; 3 when --max-cost or --max-calls stopped the run. Without a terminal a line at least
    every 30 seconds says how far it is.

    \b
    Example:
      python -m aloe_jax.evaluate --config configs/eval/scripted.yaml cases=20
      python -m aloe_jax.evaluate --config configs/eval/gemini.yaml --dry-run
      python -m aloe_jax.evaluate --preferences --config configs/eval/preferences.yaml
      python -m aloe_jax.evaluate --rescore runs/eval
    """
    if isinstance(settings, PreferencesSettings):
        if dry_run:
            raise click.UsageError("--dry-run shows what language models would be asked; --preferences asks none")
        with _output_on_disk(settings) as on_disk:
            coverage = _score_preferences(on_disk)
    elif dry_run:
        _show_estimate(settings)
        return
    else:
        with _output_on_disk(settings) as on_disk:
            coverage = _run_benchmark(on_disk)
    end(coverage)


@contextmanager
def _output_on_disk[S: (EvaluateSettings, PreferencesSettings)](settings: S) -> Iterator[S]:
    """The settings with an output on the disk, where a journal can be kept; a bucket gets a copy every minute."""
    if not is_remote(settings.output):
        yield settings
        return
    from aloe_jax.storage.mirror import Mirror

    with Mirror(settings.output, begins=None, every=60) as mirror:
        yield settings.model_copy(update={"output": str(mirror.local)})
    click.echo(f"copied to {settings.output}")


def _run_benchmark(settings: EvaluateSettings) -> tuple[Coverage, ...]:
    from aloe_jax.benchmark.results import write_results
    from aloe_jax.benchmark.stages import evaluate
    from aloe_jax.llm.budget import BudgetError
    from aloe_jax.storage.disk import refusals
    from aloe_jax.storage.files import write_atomically

    try:
        scored = evaluate(settings)
    except BudgetError as error:
        stop_at_limit(str(error))
    with refusals(Path(settings.output)):
        write_results(settings.output, scored.results)
        write_atomically(Path(settings.output) / "config.yaml", dump_settings(settings))
        _write_report(Path(settings.output), settings.judging.people)
    return scored.coverage


def _write_report(output: Path, people: Sequence[str] = ()) -> None:
    """The page of a finished run, and its table on the terminal."""
    from aloe_jax.report.gathering import gather
    from aloe_jax.report.page import write_page
    from aloe_jax.report.summary_table import table

    report = gather([output], people)
    write_page(report, f"{output}/report.html")
    _print(table(report), f"{output}/report.html")


def _show_estimate(settings: EvaluateSettings) -> None:
    from aloe_jax.benchmark.estimate import estimate, table
    from aloe_jax.benchmark.stages import check_models, read_cases, warn_of_self_preference
    from aloe_jax.llm.ledger import Ledger
    from aloe_jax.terminal import console

    check_models(settings)
    personas = read_cases(settings)
    warn_of_self_preference(settings)
    journal = Path(settings.output) / "journal.sqlite"
    with Ledger(journal, writing=False) if journal.is_file() else nullcontext() as ledger:
        console().print(table(estimate(settings, personas, ledger), ledger.usage() if ledger else {}))


def _score_preferences(settings: PreferencesSettings) -> tuple[Coverage, ...]:
    from aloe_jax.benchmark.preference_scores import score_preferences, table, write_preferences
    from aloe_jax.benchmark.stages import check_model
    from aloe_jax.report.gathering import gather
    from aloe_jax.report.page import write_page
    from aloe_jax.storage.disk import refusals

    for name, path in settings.models.items():
        check_model(f"models.{name}", path)
    if settings.reference is not None:
        check_model("reference", settings.reference)
    found = score_preferences(settings)
    with refusals(Path(settings.output)):
        written = write_preferences(settings, found)
        write_page(gather([settings.output]), f"{settings.output}/report.html")
    _print(table(found), str(written))
    return found.coverage


def _print(table: Table, written: str) -> None:
    from rich.console import Console

    console = Console()
    console.print(table)
    console.print(written, highlight=False, soft_wrap=True, markup=False)
