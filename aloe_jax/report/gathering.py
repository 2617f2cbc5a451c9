"""Brings runs together: which models there are, how they differ, what is simulated and what people said."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from aloe_jax.benchmark.number_text import listed
from aloe_jax.benchmark.preference_file import PREFERENCES, Preferences, load_preferences
from aloe_jax.benchmark.rating.figures import OfModel
from aloe_jax.benchmark.results import METRICS, Case, ModelResults, Results, StoredWithPeople, load_results
from aloe_jax.benchmark.settings import Sees
from aloe_jax.conversation import Persona
from aloe_jax.errors import AloeError
from aloe_jax.report.coherence import check_preferences, check_results
from aloe_jax.report.differences import JudgedPair, ModelPair, pairs_between, pairs_within, with_sides
from aloe_jax.report.learning import Learning, learned
from aloe_jax.report.recipes import NO_RECIPES, Recipes, TrainedModel, recipes_of
from aloe_jax.report.svg import Look, control_look, model_look, reference_look
from aloe_jax.sampling.settings import PLACEMENT
from aloe_jax.storage.copies import local_copy
from aloe_jax.storage.files import absolute, as_path, is_remote

PersonaKey = tuple[str, str, str]  # id, profile, personality
SEES: Mapping[Sees, str] = {
    "history": "",
    "persona": "with the persona in its prompt",
    "last_message": "last message only",
}
_JUDGING = ("temperature", "thinking_budget")  # of a judge's settings


@dataclass(frozen=True)
class Run:
    """One output directory: of the benchmark, of preference scoring, or of both."""

    name: str
    results: Results | None
    preferences: Preferences | None = None


@dataclass(frozen=True)
class Entry:
    """One model of one run. `label` is its name throughout the report, no other entry has it."""

    label: str
    model: str
    run: str
    numbers: ModelResults
    cases: Mapping[PersonaKey, Case]
    simulated: tuple[str, ...]  # the parts of its run that the scripted simulation plays
    look: Look

    @property
    def role_label(self) -> str:
        """What it is where it is not under test, in words; "" where it is."""
        return "reference" if self.numbers.reference else SEES[self.numbers.sees]


@dataclass(frozen=True)
class OfPeople:
    """What people said of one run: agreement, and how the judges' ratings of each model differ from theirs."""

    run: str
    found: StoredWithPeople
    models: Mapping[str, OfModel]  # by the label of the entry


@dataclass(frozen=True)
class Report:
    """All that the page, the figure and the tables show."""

    runs: tuple[Run, ...]
    entries: tuple[Entry, ...]
    pairs: tuple[ModelPair, ...]
    people: tuple[OfPeople, ...] = ()
    learning: tuple[Learning, ...] = ()  # of the models that were trained by RL, where their runs are here
    ratings: Mapping[str, Mapping[str, int]] | None = None  # people's: rater -> item -> rating
    recipes: Recipes = NO_RECIPES  # those with several training runs
    sides: tuple[JudgedPair, ...] = ()  # dialogues side by side

    @property
    def models(self) -> list[Entry]:
        """The entries under test: neither reference lines nor controls."""
        return [entry for entry in self.entries if entry.numbers.under_test]

    @property
    def single_runs(self) -> list[str]:
        """The labels of trained models whose recipe has no other run here."""
        return [
            entry.label
            for entry in self.models
            if entry.numbers.kind == "model" and entry.label not in self.recipes.labels
        ]

    @property
    def judged(self) -> list[Run]:
        """The runs of the benchmark."""
        return [run for run in self.runs if run.results is not None]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing anywhere."""
        return all(entry.numbers.complete for entry in self.entries)

    @cached_property
    def personas(self) -> dict[PersonaKey, Persona]:
        """Everybody that some model talked with, in the order of the runs."""
        return {key: case.persona for entry in self.entries for key, case in entry.cases.items()}

    @property
    def turns(self) -> int:
        """Of the longest run."""
        return max((entry.numbers.turns for entry in self.entries), default=0)

    @property
    def simulated(self) -> str:
        """What is simulated and where, in words; nothing where nothing is."""
        parts: dict[tuple[str, ...], list[str]] = {}
        for run in self.judged:
            assert run.results is not None
            parts.setdefault(tuple(run.results.simulated), []).append(run.name)
        if len(parts) == 1:
            return listed(next(iter(parts)))
        return "; ".join(f"in {listed(names)} {listed(some)}" for some, names in parts.items() if some)

    @property
    def mixed(self) -> bool:
        """Whether some runs have simulated parts and others have none."""
        return len({bool(entry.simulated) for entry in self.entries}) == 2

    def best(self, statistic: str) -> Entry | None:
        """The model with the highest average (or `ir`), undefined ones left out."""
        known = [entry for entry in self.models if getattr(entry.numbers, statistic).value is not None]
        return max(known, key=lambda entry: getattr(entry.numbers, statistic).value, default=None)

    def rivals(self, entry: Entry, statistic: str) -> list[Entry]:
        """The other models that the corrected test does not put below `entry`."""
        return [
            other
            for other in self.models
            if other is not entry
            and not any(pair.puts_above(entry.label, other.label, statistic) for pair in self.pairs)
        ]

    def stands_out(self, entry: Entry, statistic: str) -> bool:
        """Whether a model is the best, and the corrected test says so against all others."""
        return len(self.models) > 1 and self.best(statistic) is entry and not self.rivals(entry, statistic)


def gather(directories: Sequence[str | Path], human: Sequence[str | Path] = ()) -> Report:
    """Read runs (output directories, or `NAME=DIRECTORY`) and files of the human-rating page.

    Raises AloeError for a directory without results, results that cannot be read, and ratings that cannot be read.
    """
    named = [_named(str(directory)) for directory in directories]
    names = _names(named)
    return from_runs([_read(name, path) for name, (_, path) in zip(names, named, strict=True)], human)


def from_runs(runs: Sequence[Run], human: Sequence[str | Path] = ()) -> Report:
    """The report on runs that are at hand. Raises AloeError as `gather` does."""
    entries = _entries(runs)
    judged = [run.results for run in runs if run.results is not None]
    if len(judged) == 1:
        pairs = pairs_within(judged[0])
    else:
        tested = {entry.label: entry for entry in entries if entry.numbers.under_test}
        pairs = pairs_between(
            {label: (entry.cases, entry.numbers.turns) for label, entry in tested.items()},
            judged[0].settings if judged else {},
            sum(len(results.side_by_side) for results in judged),
        )
    pairs, sides = with_sides(pairs, {run.name: run.results for run in runs if run.results is not None})
    ratings = None
    if human:
        from aloe_jax.benchmark.human_ratings import read_people

        ratings = read_people(human)
    people = [_people(run, entries, ratings) for run in runs if run.results is not None]
    learning = learned([entry.numbers.source if entry.numbers.under_test else {} for entry in entries])
    return Report(
        tuple(runs),
        tuple(entries),
        tuple(pairs),
        tuple(one for one in people if one),
        learning,
        ratings,
        recipes_of(_trained(runs, entries)),
        tuple(sides),
    )


def stored_before(results: Results) -> bool:
    """Whether an earlier version computed a run, by other methods: it did not store the design of the people."""
    return results.design is None


def key_of(persona: Persona) -> PersonaKey:
    """By which runs know the same person."""
    return persona.id, persona.profile, persona.personality


def unlike(runs: Sequence[Run]) -> list[str]:
    """What makes the numbers of several runs hard to compare, in words: users, judges, votes, turns, people."""
    found = []
    judged = [(run.name, run.results) for run in runs if run.results is not None]
    sources = {
        "users": lambda r: r.providers.get("user", "unknown"),
        "judges": lambda r: listed([f"{name} ({r.providers.get(name, 'unknown')})" for name in r.judges]),
        "settings of judges": lambda r: "; ".join(f"{name} {said}" for name, said in _judge_settings(r).items()),
        "votes of each judge": lambda r: str(r.votes),
        "turns": lambda r: str(max((model.turns for model in r.models.values()), default=0)),
        "cases": lambda r: str(max((model.cases for model in r.models.values()), default=0)),
    }
    for what, describe in sources.items():
        values: dict[str, list[str]] = {}
        for name, results in judged:
            values.setdefault(describe(results), []).append(name)
        if len(values) > 1:
            found.append(f"{what}: " + "; ".join(f"{value} in {listed(names)}" for value, names in values.items()))
    people = {frozenset(key_of(case.persona) for cases in r.cases.values() for case in cases) for _, r in judged}
    if len(people) > 1:
        found.append("the people: differences are over those that both runs have")
    return found


def _named(text: str) -> tuple[str | None, Path]:
    name, equals, directory = text.partition("=")
    if equals and name and not is_remote(text) and not Path(text).exists():
        return name, as_path(directory)
    return None, as_path(text)


def _names(named: Sequence[tuple[str | None, Path]]) -> list[str]:
    """Names as given, else of the directories, with as many parents as it takes to distinguish them."""
    parts = [absolute(path).parts for _, path in named]
    depth = [1] * len(named)
    while True:
        names = [name or "/".join(own[-count:]) for (name, _), own, count in zip(named, parts, depth, strict=True)]
        twice = {name for name, count in Counter(names).items() if count > 1}
        longer = [
            i for i, name in enumerate(names) if name in twice and named[i][0] is None and depth[i] < len(parts[i])
        ]
        if not longer:
            break
        for i in longer:
            depth[i] += 1
    if twice:
        raise AloeError(f"{twice.pop()}: is given twice; leave one out, or name them as in first=DIR second=DIR")
    return names


def _read(name: str, path: Path) -> Run:
    local = local_copy(path, leave=(".sqlite",))  # not the journal, which may be large
    if not local.is_dir():
        raise AloeError(f"{path}: no such directory; give the output directory of a run of aloe_jax.evaluate")
    preferences = load_preferences(local)
    if preferences is not None:
        check_preferences(preferences, path)
    if not (local / METRICS).is_file():
        if preferences is None:
            raise AloeError(
                f"{path}: holds neither {METRICS} nor {PREFERENCES}; give the output directory of a finished run of "
                "aloe_jax.evaluate"
            )
        return Run(name, None, preferences)
    results = load_results(local)
    check_results(results, path)
    return Run(name, results, preferences)


def _entries(runs: Sequence[Run]) -> list[Entry]:
    """Models and references of all runs; a reference line that an earlier run has to the letter is left out."""
    judged = [(run, run.results) for run in runs if run.results is not None]
    found: list[Entry] = []
    kept = [
        (run, results, model)
        for number, (run, results) in enumerate(judged)
        for model in results.models
        if not any(_same_reference(model, results, earlier) for _, earlier in judged[:number])
    ]
    often = Counter(model for _, _, model in kept)
    looks = _looks([(run.name, model, results.models[model]) for run, results, model in kept])
    for (run, results, model), look in zip(kept, looks, strict=True):
        numbers = _shown(results, model)
        label = model if often[model] == 1 else f"{model} ({run.name})"
        cases = {key_of(case.persona): case for case in results.cases[model]}
        found.append(Entry(label, model, run.name, numbers, cases, tuple(results.simulated), look))
    return found


def _shown(results: Results, model: str) -> ModelResults:
    """Without the intervals of N-IR and R² that earlier versions gave wherever those are defined."""
    numbers = results.models[model]
    if not stored_before(results):
        return numbers
    bare = {"low": None, "high": None}
    return numbers.model_copy(
        update={"n_ir": numbers.n_ir.model_copy(update=bare), "r2": numbers.r2.model_copy(update=bare)}
    )


def _looks(models: Sequence[tuple[str, str, ModelResults]]) -> list[Look]:
    """Of models by run and name: a control is like its model, one without it like a reference line."""
    tested, references = itertools.count(), itertools.count()
    own = {(run, name): model_look(next(tested)) for run, name, numbers in models if numbers.under_test}
    found = []
    for run, name, numbers in models:
        if numbers.under_test:
            found.append(own[run, name])
        elif numbers.control_of is not None and (model := own.get((run, numbers.control_of))):
            found.append(control_look(model, numbers.sees))
        else:
            found.append(reference_look(next(references)))
    return found


def _trained(runs: Sequence[Run], entries: Sequence[Entry]) -> list[TrainedModel[PersonaKey]]:
    """The entries of which it is known how they were trained."""
    evaluations = {run.name: _evaluation(run.results) for run in runs if run.results is not None}
    return [
        TrainedModel(
            entry.label,
            entry.model,
            entry.numbers.training,
            evaluations[entry.run],
            entry.cases,
            entry.numbers.turns,
        )
        for entry in entries
        if entry.numbers.training is not None and entry.numbers.under_test
    ]


def _evaluation(results: Results) -> str:
    """What has to be the same in two runs for ratings of one to stand beside those of the other."""
    settings = results.settings
    sampling = settings.get("sampling")
    drawn = (
        {key: value for key, value in sampling.items() if key not in PLACEMENT} if isinstance(sampling, dict) else {}
    )
    same = [drawn, settings.get("seed"), settings.get("roles"), results.providers, results.judges, results.votes]
    same.append(_judge_settings(results))
    turns = sorted({model.turns for model in results.models.values()})
    return json.dumps([*same, turns], sort_keys=True, default=str)


def _judge_settings(results: Results) -> dict[str, str]:
    """By judge, what its ratings depend on besides its model, in words."""
    judging, roles = results.settings.get("judging"), results.settings.get("roles")
    given = judging.get("judges") if isinstance(judging, dict) else None
    if not given and isinstance(roles, dict):
        given = {"judge": roles.get("judge")}
    found = {}
    for name, role in given.items() if isinstance(given, dict) else ():
        if isinstance(role, dict):
            found[str(name)] = ", ".join(
                f"{key.replace('_', ' ')} {role[key]}" for key in _JUDGING if role.get(key) is not None
            )
    return found


def _same_reference(model: str, results: Results, earlier: Results) -> bool:
    one, other = results.models[model], earlier.models.get(model)
    if other is None or not one.reference or results.cases[model] != earlier.cases[model]:
        return False
    return (one.source, one.al, one.histogram) == (other.source, other.al, other.histogram)


def _people(run: Run, entries: Sequence[Entry], ratings: Mapping[str, Mapping[str, int]] | None) -> OfPeople | None:
    """Agreement with the people of the given files, else what the run itself stored of it."""
    assert run.results is not None
    if ratings is None:
        return None if run.results.people is None else OfPeople(run.name, run.results.people, {})
    from aloe_jax.benchmark.rating.analysis import bias_by_model, compare_with_people
    from aloe_jax.benchmark.rating.weights import whole_key

    key = whole_key(run.results.cases)
    labels = {entry.model: entry.label for entry in entries if entry.run == run.name}
    by_model = {one.model: one for one in bias_by_model(key, ratings) if one.items}
    models = {label: by_model[model] for model, label in labels.items() if model in by_model}
    return OfPeople(run.name, compare_with_people(ratings, key), models)
