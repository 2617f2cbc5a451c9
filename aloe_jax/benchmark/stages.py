"""A benchmark run from its first call to its numbers: calibration, dialogues and ratings, comparisons, scores."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

from aloe_jax.benchmark.calibration import QUALITY, calibrate, known_replies, require
from aloe_jax.benchmark.candidates import ModelCandidate, ResponderCandidate, identity_of
from aloe_jax.benchmark.case_design import CaseDesign, spread_cases
from aloe_jax.benchmark.dialogue import Candidate, Dialogue, Journal
from aloe_jax.benchmark.earlier_dialogues import report_unused
from aloe_jax.benchmark.judge import Judge, Ratings, judges_of, named
from aloe_jax.benchmark.pairwise import side_by_side
from aloe_jax.benchmark.results import StoredCalibration, StoredSideBySide
from aloe_jax.benchmark.runner import Conversing
from aloe_jax.benchmark.scoring import Checks, Scored, Talked, judge_roles, score
from aloe_jax.benchmark.self_preference import self_preference_warnings
from aloe_jax.benchmark.settings import EvaluateSettings
from aloe_jax.conversation import Persona
from aloe_jax.data.dataset import read_personas
from aloe_jax.errors import AloeError
from aloe_jax.llm import notices
from aloe_jax.llm.budget import Budget
from aloe_jax.llm.ledger import Ledger
from aloe_jax.progress import Progress, Task
from aloe_jax.roles import Cast
from aloe_jax.storage.files import as_path


def evaluate(settings: EvaluateSettings) -> Scored:
    """The benchmark of all models in `settings.models`, one after the other, with progress on stderr.

    Everything that can be wrong with paths, personas, keys and judges raises AloeError before the first dialogue;
    BudgetError when the next call would exceed a limit.
    """
    check_models(settings)
    personas = read_cases(settings)
    if any(candidate.path is not None for candidate in settings.models.values()):
        from aloe_jax.sampling.loading import spread

        spread(settings.sampling.mesh)  # no judge is asked for a mesh that cannot be
    warn_of_self_preference(settings)
    budget = Budget(settings.max_cost, settings.max_calls)
    with Ledger(Path(settings.output) / "journal.sqlite", budget=budget) as ledger:
        return run(settings, personas, ledger)


def run(settings: EvaluateSettings, personas: list[Persona], ledger: Ledger) -> Scored:
    """All stages. What the journal holds is not done again."""
    judges = judges_of(settings, ledger)
    references = any(candidate.scripted for candidate in settings.models.values())
    cast = Cast(settings.roles, ledger, only=("user", *(["responder"] if references else [])))
    candidates = {name: _candidate(name, settings, cast, ledger) for name in settings.models}
    for name, candidate in candidates.items():
        report_unused(ledger, name, candidate.identity, cast.describe("user"), settings.seed, personas)
    with Progress(ledger) as progress:
        calibrations = _calibrations(settings, judges, progress)
        talked = _talk(settings, personas, cast, candidates, judges, ledger, progress)
        pairs = _pairs(settings, talked, judges, progress)
        checks = Checks(calibrations, pairs, ledger.usage())
        return score(settings, [judge.name for judge in judges], talked, checks)


def _candidate(name: str, settings: EvaluateSettings, cast: Cast, ledger: Ledger) -> Candidate:
    source = settings.models[name]
    identity: dict[str, object]
    if source.path is not None:
        return ModelCandidate(source.path, settings.sampling, sees=source.sees)
    if source.remote is not None:
        roles = settings.roles.model_copy(update={"responder": source.remote})
        setting = f"models.{name}.remote"
        with named(setting, "responder"):
            remote = Cast(roles, ledger, only=("responder",))
        identity = {"remote": remote.describe("responder"), **identity_of(source.sees)}
        informed, forgetful = source.sees == "persona", source.sees == "last_message"
        system_of = "known_persona" if informed else None
        return ResponderCandidate(remote, identity, informed, setting, forgetful, system_of)
    identity = {"reference": source.scripted, "responder": cast.describe("responder")}
    return ResponderCandidate(cast, identity, informed=source.scripted == "informed")


def _calibrations(settings: EvaluateSettings, judges: Sequence[Judge], progress: Progress) -> list[StoredCalibration]:
    """What the judges make of replies of known quality. Raises MiscalibratedError where that is asked for."""
    judging = settings.judging
    if judging.calibrate == "skip":
        return []
    found = []
    task = progress.add("calibration", len(judges) * judging.calibration_personas * len(QUALITY))
    for judge in judges:
        simulated = judge_roles(settings)[judge.name].entry.simulated
        known = known_replies(simulated, judging.calibration_personas)
        found.append(calibrate(judge, known, judging.threshold, settings.concurrency, task.advance))
    task.total = task.done  # the set may be smaller
    if judging.calibrate == "require":
        require(found, judging.threshold)
    return found


def _talk(
    settings: EvaluateSettings,
    personas: list[Persona],
    cast: Cast,
    candidates: dict[str, Candidate],
    judges: Sequence[Judge],
    ledger: Ledger,
    progress: Progress,
) -> list[Talked]:
    """The dialogues of all models; every reply is rated while the dialogues, and those of the next model, go on."""
    exchanges = len(personas) * settings.turns
    votes = len(judges) * settings.judging.votes
    spoken: dict[str, list[Dialogue]] = {}
    tasks = {name: progress.add(f"{name}: dialogues", exchanges) for name in candidates}
    rating = progress.add("ratings", exchanges * len(candidates) * votes)
    with Ratings(judges, settings.judging.votes, settings.concurrency, rating.advance) as ratings:
        for name in list(candidates):
            candidate = candidates.pop(name)

            def finished(dialogue: Dialogue, turn: int, task: Task = tasks[name]) -> None:
                task.advance()
                ratings.want(dialogue, turn)

            journal = Journal(ledger, candidate.identity, cast.describe("user"), settings.seed, personas)
            spoken[name] = Conversing(
                candidate,
                personas,
                cast,
                journal,
                turns=settings.turns,
                seed=settings.seed,
                concurrency=settings.concurrency,
                waits=not settings.roles.user.entry.simulated,
                finished=finished,
            ).run()
            del candidate
            gc.collect()  # its parameters and cache leave the device before the next model comes
    return [
        Talked(name, dialogues, [ratings.verdicts(dialogue) for dialogue in dialogues])
        for name, dialogues in spoken.items()
    ]


def _pairs(
    settings: EvaluateSettings, talked: Sequence[Talked], judges: Sequence[Judge], progress: Progress
) -> list[StoredSideBySide]:
    dialogues = {one.name: one.dialogues for one in talked}
    found = []
    for first, second in settings.judging.pairs:
        sides = dialogues[first], dialogues[second]
        task = progress.add(f"{first} and {second} side by side", len(sides[0]) * len(judges) * 2)
        names, seed = (first, second), settings.seed
        found.append(side_by_side(names, sides, judges, settings.concurrency, settings.bootstrap, seed, task.advance))
    return found


# ---------------------------------------------------------------- before the first dialogue


def warn_of_self_preference(settings: EvaluateSettings) -> None:
    """Report a line for every judge of the same family as another role or model of the run."""
    for sentence in self_preference_warnings(settings):
        notices.report(f"warning: {sentence}")


def check_models(settings: EvaluateSettings) -> None:
    """Raise AloeError for the first model path that holds no model."""
    for name, candidate in settings.models.items():
        if candidate.path is not None:
            check_model(f"models.{name}", candidate.path)


def check_model(key: str, directory: str) -> None:
    """Raise AloeError naming the setting `key` when there is no model in a directory."""
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
    """`settings.cases` of the benchmark personas, in their stored order, spread over profiles and personalities.

    Raises AloeError when there are fewer, or an id is repeated.
    """
    personas = read_personas(settings.personas, "benchmark")
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
    return [personas[case] for case in spread_cases(CaseDesign.of(personas), settings.cases)]
