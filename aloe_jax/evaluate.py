"""Run the ALOE benchmark for one or several models: `python -m aloe_jax.evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aloe_jax import config
from aloe_jax.command import configured

if TYPE_CHECKING:
    from rich.progress import Progress

    from aloe_jax.benchmark.report import Difference, Result
    from aloe_jax.conversation import Persona
    from aloe_jax.llm.ledger import Ledger
    from aloe_jax.roles import Cast


@click.command()
@configured(config.Evaluate)
def main(settings: config.Evaluate) -> None:
    """Let simulated users talk to each model, have every reply rated, and write a report.

    OUTPUT gets report.html, metrics.json, transcripts.jsonl, config.yaml, and journal.sqlite, from which an
    interrupted run goes on when the same command is given again.

    Example: python -m aloe_jax.evaluate --config configs/eval/scripted.yaml cases=20
    """
    from rich.console import Console

    from aloe_jax.benchmark.report import table, write_report

    results, differences = evaluate(settings)
    write_report(settings.output, settings, results, differences)
    console = Console()
    console.print(table(settings, results, differences))
    console.print(f"{settings.output}/report.html", highlight=False, soft_wrap=True)


def evaluate(settings: config.Evaluate) -> tuple[list[Result], list[Difference]]:
    """The benchmark of all models in `settings.models`, one after the other, with progress on stderr.

    Differences are between consecutive models under test, reference lines left out. Everything that can be wrong
    with paths and personas raises AloeError before the first dialogue.
    """
    from pathlib import Path

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from aloe_jax.benchmark.judge import ratings_table
    from aloe_jax.benchmark.metrics import paired_difference
    from aloe_jax.benchmark.report import Difference
    from aloe_jax.llm.ledger import Ledger
    from aloe_jax.roles import Cast

    check_models(settings)
    personas = read_cases(settings)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    with Ledger(Path(settings.output) / "journal.sqlite") as ledger, bar:
        references = any(candidate.scripted for candidate in settings.models.values())
        cast = Cast(settings.roles, ledger, only=("user", "judge", *(["responder"] if references else [])))
        results = [_result(name, settings, personas, cast, ledger, bar) for name in settings.models]
    tested = [result for result in results if not result.reference]
    tables = [ratings_table(result.verdicts, settings.turns) for result in tested]
    differences = [
        Difference(
            tested[i].name,
            tested[i + 1].name,
            paired_difference(tables[i], tables[i + 1], settings.bootstrap, settings.seed),
        )
        for i in range(len(tested) - 1)
    ]
    return results, differences


def check_models(settings: config.Evaluate) -> None:
    """Raise AloeError for the first model path that holds no model."""
    from pathlib import Path

    from aloe_jax.errors import AloeError

    for name, candidate in settings.models.items():
        if candidate.path is None:
            continue
        path = Path(candidate.path)
        if not path.is_dir():
            raise AloeError(f"models.{name}: {path} is not a directory; give a model directory or a run directory")
        if (path / "config.json").is_file():
            continue
        if not (path / "spec.json").is_file():
            raise AloeError(
                f"models.{name}: {path} holds neither config.json (a Hugging Face directory) nor spec.json "
                "(a run of aloe_jax.train)"
            )
        if not any(entry.name.isdigit() for entry in path.glob("checkpoints/*")):
            raise AloeError(f"models.{name}: {path} has no checkpoint yet; train it first")


def read_cases(settings: config.Evaluate) -> list[Persona]:
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


def _result(
    name: str, settings: config.Evaluate, personas: list[Persona], cast: Cast, ledger: Ledger, bar: Progress
) -> Result:
    import gc

    from aloe_jax.benchmark.candidates import ModelCandidate, ScriptedCandidate
    from aloe_jax.benchmark.dialogue import Candidate, converse
    from aloe_jax.benchmark.judge import rate, ratings_table
    from aloe_jax.benchmark.metrics import alignment_metrics
    from aloe_jax.benchmark.report import Result

    source = settings.models[name]
    exchanges = len(personas) * settings.turns
    talking = bar.add_task(f"{name}: dialogues", total=exchanges)
    candidate: Candidate
    if source.path is not None:
        candidate = ModelCandidate(source.path, settings.sampling)
    else:
        assert source.scripted is not None  # config.Candidate has one of the two
        candidate = ScriptedCandidate(source.scripted, cast, cast.describe("responder"))
    dialogues = converse(
        candidate,
        personas,
        cast,
        ledger,
        turns=settings.turns,
        seed=settings.seed,
        user=cast.describe("user"),
        progress=lambda done: bar.update(talking, completed=done),
    )
    del candidate
    gc.collect()  # its parameters and cache leave the device before the next model comes
    rating = bar.add_task(f"{name}: ratings", total=sum(len(dialogue.exchanges) for dialogue in dialogues))
    verdicts = rate(
        dialogues,
        cast,
        ledger,
        seed=settings.seed,
        judge=cast.describe("judge"),
        progress=lambda done: bar.update(rating, completed=done),
    )
    metrics = alignment_metrics(ratings_table(verdicts, settings.turns), settings.bootstrap, settings.seed)
    return Result(name, source.scripted is not None, dialogues, verdicts, metrics)


if __name__ == "__main__":
    main()
