"""Run the ALOE benchmark, or score held-out preferences: `python -m aloe_jax.evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import click

from aloe_jax.benchmark.settings import EvaluateSettings, PreferencesSettings
from aloe_jax.command import Command, one_line_errors
from aloe_jax.settings import dump_settings, load_settings
from aloe_jax.storage.files import as_path, is_remote

if TYPE_CHECKING:
    from aloe_jax.benchmark.scoring import Scored, Talked
    from aloe_jax.conversation import Persona
    from aloe_jax.coverage import Coverage
    from aloe_jax.llm.ledger import Ledger

LIMITED = 3  # exit status of a run that a limit stopped


@click.command(cls=Command)
@click.option(
    "--preferences", is_flag=True, help="Score held-out pairs of replies instead; no language model is asked."
)
@click.option("--dry-run", is_flag=True, help="Show expected calls, tokens and cost; ask nothing.")
@click.option("--max-cost", type=float, help="Stop cleanly before this run spends more dollars. Short for max_cost=...")
@click.option("--max-calls", type=int, help="Stop cleanly after so many calls of this run. Short for max_calls=...")
@click.option("--config", "path", required=True, metavar="FILE", help="YAML file of settings.")
@click.argument("overrides", nargs=-1, metavar="[section.key=value]...")
def main(
    preferences: bool,
    dry_run: bool,
    max_cost: float | None,
    max_calls: int | None,
    path: str,
    overrides: tuple[str, ...],
) -> None:
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
    """
    limits = {"max_cost": max_cost, "max_calls": max_calls}
    overrides = (*overrides, *(f"{key}={value}" for key, value in limits.items() if value is not None))
    with one_line_errors():
        if preferences:
            if dry_run:
                raise click.UsageError("--dry-run shows what language models would be asked; --preferences asks none")
            scoring = load_settings(PreferencesSettings, path, overrides)
            with _output_on_disk(scoring) as kept:
                parts = _score_preferences(kept)
            _end(parts)
            return
        settings = load_settings(EvaluateSettings, path, overrides)
        if dry_run:
            _show_estimate(settings)
        else:
            with _output_on_disk(settings) as kept:
                parts = _run(kept)
            _end(parts)


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


def _end(parts: Sequence[Coverage]) -> None:
    """Say in the last line what is missing, and leave with a status that says so."""
    from aloe_jax.coverage import NOTHING, last_line

    line, status = last_line(parts)
    if line:
        click.echo(f"Error: {line}" if status == NOTHING else line, err=True)
        sys.exit(status)


def _run(settings: EvaluateSettings) -> tuple[Coverage, ...]:
    from pathlib import Path

    from rich.console import Console

    from aloe_jax.benchmark.results import write_results
    from aloe_jax.llm.budget import BudgetError
    from aloe_jax.report.gathering import gather
    from aloe_jax.report.page import write_page
    from aloe_jax.report.terminal import table
    from aloe_jax.storage.disk import refusals
    from aloe_jax.storage.files import write_atomically

    try:
        scored, _ = evaluate(settings)
    except BudgetError as error:
        click.echo(f"Stopped: {error}. Whatever is finished is kept; the same command goes on from here.", err=True)
        sys.exit(LIMITED)
    with refusals(Path(settings.output)):
        write_results(settings.output, scored.results)
        write_atomically(Path(settings.output) / "config.yaml", dump_settings(settings))
        report = gather([settings.output], settings.judging.people)
        write_page(report, f"{settings.output}/report.html")
    console = Console()
    console.print(table(report))
    console.print(f"{settings.output}/report.html", highlight=False, soft_wrap=True, markup=False)
    return scored.coverage


def evaluate(settings: EvaluateSettings) -> tuple[Scored, list[Talked]]:
    """The benchmark of all models in `settings.models`, one after the other, with progress on stderr.

    Everything that can be wrong with paths, personas, keys and judges raises AloeError before the first dialogue;
    BudgetError when the next call would exceed a limit.
    """
    from pathlib import Path

    from aloe_jax.benchmark.stages import run
    from aloe_jax.llm.budget import Budget
    from aloe_jax.llm.ledger import Ledger

    check_models(settings)
    personas = read_cases(settings)
    if any(candidate.path is not None for candidate in settings.models.values()):
        from aloe_jax.sampling.loading import spread

        spread(settings.sampling.mesh)  # no judge is asked for a mesh that cannot be
    budget = Budget(settings.max_cost, settings.max_calls)
    with Ledger(Path(settings.output) / "journal.sqlite", budget=budget) as ledger:
        return run(settings, personas, ledger)


def check_models(settings: EvaluateSettings) -> None:
    """Raise AloeError for the first model path that holds no model."""
    for name, candidate in settings.models.items():
        if candidate.path is not None:
            check_model(f"models.{name}", candidate.path)


def check_model(key: str, directory: str) -> None:
    """Raise AloeError naming the setting `key` when there is no model in a directory."""

    from aloe_jax.errors import AloeError

    path = as_path(directory)
    if not path.is_dir():
        raise AloeError(f"{key}: {path} is not a directory; give a model directory or a run directory")
    if (path / "config.json").is_file():
        return
    if not (path / "spec.json").is_file():
        raise AloeError(
            f"{key}: {path} holds neither config.json (a Hugging Face directory) nor spec.json "
            "(a run of aloe_jax.train)"
        )
    if not any(entry.name.isdigit() for entry in path.glob("checkpoints/*")):
        raise AloeError(f"{key}: {path} has no checkpoint yet; train it first")


def read_cases(settings: EvaluateSettings) -> list[Persona]:
    """The first `settings.cases` benchmark personas. Raises AloeError when there are fewer, or an id is repeated."""
    from aloe_jax.data.dataset import read_personas
    from aloe_jax.errors import AloeError

    personas = read_personas(settings.personas, "benchmark", limit=settings.cases)
    if len(personas) < settings.cases:
        raise AloeError(
            f"{settings.personas}: has {len(personas)} benchmark personas, cases asks for {settings.cases}; "
            "lower cases or generate more personas"
        )
    seen: set[str] = set()
    for persona in personas:
        if persona.id in seen:
            raise AloeError(f"{settings.personas}: persona {persona.id} is there twice; give every persona its own id")
        seen.add(persona.id)
    return personas


def _show_estimate(settings: EvaluateSettings) -> None:
    from pathlib import Path

    from aloe_jax.benchmark.estimate import estimate, table
    from aloe_jax.llm.ledger import Ledger
    from aloe_jax.terminal import console

    check_models(settings)
    personas = read_cases(settings)
    journal = Path(settings.output) / "journal.sqlite"
    ledger: Ledger | None
    with Ledger(journal, writing=False) if journal.is_file() else nullcontext() as ledger:
        console().print(table(estimate(settings, personas, ledger), ledger.usage() if ledger else {}))


def _score_preferences(settings: PreferencesSettings) -> tuple[Coverage, ...]:
    from pathlib import Path

    from rich.console import Console

    from aloe_jax.benchmark.preferences import score_preferences, table, write_preferences
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
    console = Console()
    console.print(table(found))
    console.print(str(written), highlight=False, soft_wrap=True, markup=False)
    return found.coverage


if __name__ == "__main__":
    main()
