"""`python -m datagen`: personas, calibrate, coverage, conversations, build, stats, browse, convert."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aloe_jax.command import Group, configured, one_line_errors
from aloe_jax.settings import load_settings
from datagen.settings import DatagenSettings

if TYPE_CHECKING:
    from datagen.conversations import Outcome

# Exit status of a run that a limit stopped; an interrupted one has 130, as in a shell.
LIMITED = 3
LIMITS: dict[str, tuple[str, dict[str, Any]]] = {
    "max_cost": ("max_cost", {"type": float, "help": "Stop cleanly before this run spends more dollars."}),
    "max_calls": ("max_calls", {"type": int, "help": "Stop cleanly after so many calls of this run."}),
}


@click.group(cls=Group)
def main() -> None:
    """Generate personas and preference conversations, and store them as TFDS data sets.

    `personas`, `conversations` and `build` run in this order and share one config file. Whatever is finished
    lies in OUTPUT/journal.sqlite, every paid call included: a run that was stopped or killed goes on when the
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


@main.command()
@click.option("--dry-run", is_flag=True, help="Show expected calls, tokens and cost; ask nothing.")
@configured(DatagenSettings, **LIMITS)
def personas(settings: DatagenSettings, dry_run: bool) -> None:
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
    from datagen.journal import open_journal
    from datagen.personas import pool_sizes, write_personas
    from datagen.pool.growth import SaturatedError, curve_text
    from datagen.pool.seeds import seed_texts

    seeds = seed_texts(settings)
    if dry_run:
        _show_estimate(settings, seeds)
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
            _stop_at_limit(str(error))
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
    _label(settings)


@main.command()
@click.option(
    "--texts", type=click.Path(path_type=Path), help="Calibrate on a file: texts one a line, or JSON strings."
)
@configured(DatagenSettings)
def calibrate(settings: DatagenSettings, texts: Path | None) -> None:
    """Find the personas.similarity that tells near-copies from new texts for personas.vectors.

    Makes near-copies of the pool's own texts (or of the seeds, or of a file) and shows how well thresholds tell
    them from the real ones. Embeddings are paid calls; each text is embedded once.

    \b
    Example:
      python -m datagen calibrate --config configs/datagen/gemini.yaml personas.vectors=gemini
    """
    from aloe_jax.progress import Progress
    from aloe_jax.terminal import console
    from datagen.journal import open_journal
    from datagen.pool.calibrate import calibrate as measure
    from datagen.pool.calibrate import recommend, tables, texts_for
    from datagen.pool.embeddings import vectors_name, vectors_of

    with open_journal(settings, create=True) as ledger, Progress(ledger) as progress:
        vectors = vectors_of(settings, ledger)
        wanted = texts_for(settings, ledger, texts)
        task = progress.add("sets of texts compared", len(wanted))
        found = {}
        for name, some in wanted.items():
            found[name] = measure(some, vectors)
            task.advance()
    for name, calibration in found.items():
        for table in tables(calibration, name):
            console().print(table)
    best = recommend(list(found.values()))
    name = vectors_name(settings)
    click.echo(f"Recommended for {name}: personas.similarity={best:.2f} (now {settings.personas.similarity:g})")


@main.command()
@configured(DatagenSettings)
def coverage(settings: DatagenSettings) -> None:
    """Show what the profiles say of age, gender, work, pastimes, pets and diet, and where nobody is.

    \b
    Example:
      python -m datagen coverage --config configs/datagen/scripted.yaml
    """
    from aloe_jax.terminal import console
    from datagen.journal import open_journal
    from datagen.personas import recorded_pools
    from datagen.pool.survey import survey, tables

    with open_journal(settings, writing=False) as ledger:
        profiles = recorded_pools(ledger, settings)["profiles"].members
    for table in tables(survey(profiles)):
        console().print(table)
    _label(settings)


@main.command()
@click.option("--dry-run", is_flag=True, help="Show expected calls, tokens and cost; ask nothing.")
@configured(
    DatagenSettings,
    **LIMITS,
    verify_twice=(
        "conversations.verify_twice",
        {"is_flag": True, "flag_value": "true", "help": "Ask the verifier in both orders; drop disagreements."},
    ),
    branch=(
        "conversations.branch",
        {"type": click.Choice(["random", "both"]), "help": "Answer one reply of a turn or, in the first turns, both."},
    ),
)
def conversations(settings: DatagenSettings, dry_run: bool) -> None:
    """Write the conversation trees: two replies a turn, one preferred.

    Needs `personas` first. Ctrl-C finishes the conversations in hand; the same command goes on later. Exit
    status 3 says that --max-cost or --max-calls stopped the run.

    \b
    Example:
      python -m datagen conversations --config configs/datagen/scripted.yaml conversations.count=100
    """
    from aloe_jax.coverage import NOTHING, last_line
    from aloe_jax.progress import Progress
    from aloe_jax.roles import Cast
    from datagen.conversations import TALKING_ROLES, write_conversations
    from datagen.journal import open_journal
    from datagen.personas import recorded_personas
    from datagen.waves import write_in_waves

    if dry_run:
        _show_estimate(settings, None)
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
    _label(settings)
    if outcome.stopped:
        _stop_at_limit(f"{outcome.stopped}; {outcome.left:,} to go")
    if outcome.left:
        click.echo(f"Stopped with {outcome.left:,} to go; the same command goes on from here.", err=True)
        sys.exit(130)
    line, status = last_line([outcome.coverage()])
    if line:
        click.echo(f"Error: {line}" if status == NOTHING else line, err=True)
        sys.exit(1 if outcome.unreachable else status)


@main.command()
@configured(DatagenSettings)
def build(settings: DatagenSettings) -> None:
    """Write the journal's records as TFDS data sets under OUTPUT/tfds.

    aloe_personas has the splits train and benchmark, aloe_trees train and validation; validation holds
    profiles of its own. May be run again at any time, also before all conversations are written.

    \b
    Example:
      python -m datagen build --config configs/datagen/scripted.yaml
    """
    from datagen.build import build as write
    from datagen.journal import open_journal

    with open_journal(settings, writing=False) as ledger:
        for path, counts in write(ledger, settings).items():
            click.echo(f"{path}: " + ", ".join(f"{count:,} {split}" for split, count in counts.items()))
    _label(settings)


@main.command()
@configured(DatagenSettings)
def stats(settings: DatagenSettings) -> None:
    """Show pools and their coverage, conversations turn by turn, quality, skips, calls and what they cost.

    \b
    Example:
      python -m datagen stats --config configs/datagen/scripted.yaml
    """
    from aloe_jax.terminal import console
    from datagen.journal import open_journal
    from datagen.look.stats import tables
    from datagen.personas import pool_sizes, recorded_pools
    from datagen.pool.growth import curve_text

    with open_journal(settings, writing=False) as ledger:
        for name, pool in recorded_pools(ledger, settings).items():
            if pool.calls > 4:
                click.echo(curve_text(pool, pool_sizes(settings)[name]))
        for table in tables(ledger, settings):
            console().print(table)
    _label(settings)


FORMATS = click.Choice(["ours", "aloe", "trl", "chat"])
WITH_POOL = click.Choice(["ours", "aloe", "trl", "chat", "pool"])


@main.command()
@click.option("--data", metavar="PATH", help="A TFDS directory or a file of conversations, instead of a run's journal.")
@click.option("--from", "source_format", default="ours", type=FORMATS, show_default=True, help="Format of --data.")
@click.option("--output", metavar="FILE", help="The page to write; default OUTPUT/browse.html.")
@click.option("--config", "path", metavar="FILE", help="YAML file of settings, for the journal in OUTPUT.")
@click.argument("overrides", nargs=-1, metavar="[section.key=value]...")
def browse(
    data: str | None, source_format: Any, output: str | None, path: str | None, overrides: tuple[str, ...]
) -> None:
    """Write all personas and trees as one HTML page to read, search and filter, without a network.

    \b
    Example:
      python -m datagen browse --config configs/datagen/scripted.yaml
      python -m datagen browse --data published.jsonl --from aloe --output published.html
    """
    if (path is None) == (data is None):
        raise click.UsageError("give --config FILE (a run) or --data PATH (a data set)")
    if data is not None and output is None:
        raise click.UsageError("--data needs --output FILE, the page to write")
    from datagen.journal import open_journal
    from datagen.look.browse import browse_data, browse_journal

    with one_line_errors():
        if data is not None and output is not None:
            written = browse_data(data, Path(output), source_format)
        else:
            assert path is not None
            settings = load_settings(DatagenSettings, path, overrides)
            with open_journal(settings, writing=False) as ledger:
                written = browse_journal(ledger, settings, Path(output) if output else None)
    click.echo(f"{written}: open it in a browser")


@main.command()
@click.argument("source")
@click.argument("target")
@click.option("--from", "source_format", required=True, type=WITH_POOL, help="Format of SOURCE.")
@click.option("--to", "target_format", required=True, type=WITH_POOL, help="Format of TARGET.")
@click.option("--lines", type=click.Choice(["turn", "conversation"]), help="With --to chat: what a line is [turn].")
@click.option("--split", help="Of a TFDS directory as SOURCE [train].")
def convert(source: str, target: str, source_format: Any, target_format: Any, lines: Any, split: str | None) -> None:
    """Convert conversations between file formats, one JSON record a line; says what TARGET cannot hold.

    ours: everything, also from a TFDS directory. aloe: the published format. trl: preference rows, one a pair.
    chat: messages only; a conversation a line follows the continued replies, which are not all preferred.
    pool: persona texts (JSON strings, or one a line in a .txt file).

    \b
    Example:
      python -m datagen convert published.jsonl ours.jsonl --from aloe --to ours
      python -m datagen convert OUTPUT/tfds/aloe_trees/1.0.0 train.jsonl --from ours --to trl --split train
      python -m datagen convert profile.jsonl seeds/profiles.txt --from pool --to pool
    """
    from datagen.convert import convert as run

    with one_line_errors():
        done = run(source, source_format, target, target_format, lines=lines, split=split)
    what = "texts" if source_format == "pool" else "conversations"
    click.echo(f"{target}: {done.written:,} lines from {done.read:,} {what}")
    for lost, count in done.lost.most_common():
        click.echo(f"not held by {target_format}: {count:,} {lost}", err=True)


def _show_estimate(settings: DatagenSettings, seeds: Any) -> None:
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


def _stop_at_limit(why: str) -> None:
    click.echo(f"Stopped: {why}. Whatever is finished is kept; the same command goes on from here.", err=True)
    sys.exit(LIMITED)


def _label(settings: DatagenSettings) -> None:
    from datagen.journal import SIMULATED, is_simulated

    if is_simulated(settings):
        click.echo(SIMULATED)


if __name__ == "__main__":
    main(prog_name="python -m datagen")
