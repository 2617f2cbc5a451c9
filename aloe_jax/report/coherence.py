"""Whether what a run stored fits together: a file that was cut, mixed with another or edited is refused by its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aloe_jax.benchmark.case_design import CaseDesign
from aloe_jax.benchmark.preference_file import PREFERENCES, Preferences
from aloe_jax.benchmark.results import METRICS, Case, Level, ModelResults, Number, Results
from aloe_jax.errors import AloeError

ADVICE = "give the command of the run again"
MOST_TURNS = 10_000  # of a dialogue
_COUNTS = ("bootstrap", "permutations", "seed")


def check_results(results: Results, where: object) -> None:
    """Raise AloeError naming the file and the field where results of the directory `where` contradict themselves."""
    fault = next(_faults(results), None)
    if fault is not None:
        raise AloeError(f"{where}/{METRICS}: {fault}; {ADVICE}")


def check_preferences(preferences: Preferences, where: object) -> None:
    """The same for preference scoring."""
    found = [f"settings.{fault}" for fault in _settings(preferences.settings)]
    for name, model in preferences.models.items():
        for turn in model.by_turn:
            if not 1 <= turn.turn <= MOST_TURNS:
                found.append(f"models.{name}.by_turn: there is no turn {turn.turn}")
    if found:
        raise AloeError(f"{where}/{PREFERENCES}: {found[0]}; {ADVICE}")


def _faults(results: Results) -> Iterator[str]:
    for fault in _settings(results.settings):
        yield f"settings.{fault}"
    if results.votes < 1:
        yield f"votes: {results.votes} votes of a judge on a reply"
    if not results.judges or len(set(results.judges)) < len(results.judges):
        yield "judges: one has to have a name of its own, and there has to be one"
    pairs = [("differences", one.first, one.second) for one in results.differences]
    pairs += [("controls", one.first, one.second) for one in results.controls]
    pairs += [("side_by_side", one.first, one.second) for one in results.side_by_side]
    for kind, *names in pairs:
        for name in names:
            if name not in results.models:
                yield f"{kind}: there is no model {name}"
    if results.design is not None:
        cases = next(iter(results.cases.values()), [])
        if CaseDesign.of([case.persona for case in cases]).kind != results.design.kind:
            yield f"design: is {results.design.kind}, the people of its dialogues are not"
    for name, model in results.models.items():
        if model.control_of is not None and model.control_of not in results.models:
            yield f"models.{name}.control_of: there is no model {model.control_of}"
        for fault in _model(model, results):
            yield f"models.{name}.{fault}"
        for case in results.cases.get(name, ()):
            yield from _case(case, model, results)


def _model(model: ModelResults, results: Results) -> Iterator[str]:
    yield from _level(model)
    if set(model.judges) != set(results.judges):
        yield "judges: are not those of the run"
    for judge, level in model.judges.items():
        for fault in _level(level):
            yield f"judges.{judge}.{fault}"
    if (trained := model.training) is not None and not 0 < len(trained.stages) == len(trained.seeds):
        yield f"training: has {len(trained.seeds)} seeds of {len(trained.stages)} runs"
    if len(model.histogram) != model.turns or any(len(row) != 5 or min(row) < 0 for row in model.histogram):
        yield "histogram: is not five counts a turn"
    for name in ("words_by_turn", "mentioned_by_turn", "leaked_by_turn"):
        if len(getattr(model.automatic, name)) != model.turns:
            yield f"automatic.{name}: has {len(getattr(model.automatic, name))} turns, the model has {model.turns}"


def _level(level: Level) -> Iterator[str]:
    if not 1 <= level.turns <= MOST_TURNS or level.cases < 0:
        yield f"turns: {level.turns} turns of {level.cases} cases"
    for name in ("al", "al_low", "al_high", "coverage_by_turn"):
        values: list[Number] = getattr(level, name)
        if len(values) != level.turns:
            yield f"{name}: has {len(values)} turns of {level.turns}"
        limits = (0, 1) if name == "coverage_by_turn" else (1, 5)
        if not all(value is None or limits[0] - 1e-6 <= value <= limits[1] + 1e-6 for value in values):
            yield f"{name}: is not between {limits[0]} and {limits[1]}"
    if not 0 <= level.coverage <= 1:
        yield f"coverage: {level.coverage} is no share"
    if any(not bounds.least <= bounds.most for bounds in level.bounds.values()):
        yield "bounds: one has its least above its most"
    average = level.average.value
    if average is not None and not 1 - 1e-6 <= average <= 5 + 1e-6:
        yield f"average: {average} is no mean of ratings from 1 to 5"


def _case(case: Case, model: ModelResults, results: Results) -> Iterator[str]:
    where = f"the dialogue of {case.model} with {case.persona.id} in transcripts.jsonl"
    if len(case.turns) > model.turns:
        yield f"{where} has {len(case.turns)} turns of {model.turns}"
    for turn in case.turns:
        if turn.rating is not None and not 1 <= turn.rating <= 5:
            yield f"{where} has a rating of {turn.rating}"
        for vote in turn.votes:
            if vote.judge not in results.judges:
                yield f"{where} has a vote of {vote.judge}, who is no judge of the run"
            if vote.rating is not None and not 1 <= vote.rating <= 5:
                yield f"{where} has a vote of {vote.rating}"


def _settings(settings: Mapping[str, object]) -> Iterator[str]:
    for name in _COUNTS:
        value = settings.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            yield f"{name}: is no whole number"
    if not isinstance(settings.get("sampling", {}), dict):
        yield "sampling: is no group of settings"
