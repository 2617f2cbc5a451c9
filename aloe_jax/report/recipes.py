"""Models of a report by recipe: several training runs of the same settings, and what can be said of the recipe."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, takewhile

import numpy as np

from aloe_jax.benchmark.alignment import HIGHEST, LOWEST
from aloe_jax.benchmark.case_design import CaseDesign
from aloe_jax.benchmark.intervals import Array
from aloe_jax.benchmark.multiple_tests import holm
from aloe_jax.benchmark.number_text import counted, listed
from aloe_jax.benchmark.recipes import RecipeEstimate, case_pseudo_values, compare_recipes, estimate_recipe
from aloe_jax.benchmark.results import STATISTICS, Case, Number, Statistic, StoredTraining, ratings_of_cases
from aloe_jax.report.differences import LEVEL

FEW = 3  # runs below which an interval says little

_SPAN = HIGHEST - LOWEST
_ENDS: Mapping[Statistic, tuple[float, float]] = {  # what the numbers can be
    "average": (LOWEST, HIGHEST),
    "ir": (-_SPAN, _SPAN),
    "final": (LOWEST, HIGHEST),
}
_BEFORE_A_SEED = re.compile(r"[-_ .(\[]+(seed|s)?[-_ .=]*$")


@dataclass(frozen=True)
class TrainedModel[K]:
    """A model of the report: `label` there, `model` in its run, and whatever has to be the same to compare ratings."""

    label: str
    model: str
    training: StoredTraining
    evaluation: str
    cases: Mapping[K, Case]
    turns: int


@dataclass(frozen=True)
class RecipeResult:
    """A recipe with two runs or more, of different seeds. `by`: what is known of it, by statistic."""

    name: str
    labels: tuple[str, ...]  # of its models, in the order of `seeds`
    seeds: tuple[tuple[int, ...], ...]  # of the runs that were trained anew
    shared: tuple[str, ...]  # stages that all of them have in common, seed included
    cases: int  # that all of them talked with
    numbers: Mapping[Statistic, tuple[Number, ...]]  # of every run, over those cases
    by: Mapping[Statistic, RecipeEstimate]

    @property
    def seeds_text(self) -> str:
        """Such as "0, 1, 2"."""
        return ", ".join("/".join(map(str, sorted(set(one), key=one.index))) for one in self.seeds)


@dataclass(frozen=True)
class RecipePair:
    """Two recipes, and by statistic what `second` has more than `first`, with p corrected for all such tests."""

    first: str
    second: str
    paired: bool  # run by run of the same seeds, over the seeds that both have where these are two or more
    cases: int
    by: Mapping[Statistic, RecipeEstimate]
    p_holm: Mapping[Statistic, float]

    def strong(self, statistic: Statistic) -> bool:
        """Whether the corrected test rejects that there is no difference."""
        return self.p_holm.get(statistic, 1.0) < LEVEL


@dataclass(frozen=True)
class Recipes:
    """All recipes with several runs, and their comparisons."""

    results: tuple[RecipeResult, ...] = ()
    pairs: tuple[RecipePair, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.results)

    @property
    def labels(self) -> set[str]:
        """The models that are a run of some recipe here."""
        return {label for one in self.results for label in one.labels}

    def notes(self) -> list[str]:
        """What has to stand with the numbers of recipes."""
        if not self.results:
            return []
        said = [
            "By recipe: mean over training runs; intervals include the variance between runs and between people; "
            "p-values are corrected by Holm's method for all comparisons of recipes.",
            "Numbers of single runs are conditional on their weights.",
        ]
        for one in self.results:
            if one.shared:
                said.append(
                    f"Recipe {one.name}: its runs share the same {listed(one.shared)}; what training "
                    f"{'it' if len(one.shared) == 1 else 'them'} again would change is not included."
                )
        if few := [one.name for one in self.results if len(one.labels) < FEW]:
            said.append(
                f"With two runs ({listed(few)}) the variance between runs is hardly known: intervals are very wide, "
                "and few differences can be found; train three or more."
            )
        return said


NO_RECIPES = Recipes()


def conditional_note(labels: Sequence[str]) -> str:
    """What holds for models that stand for themselves alone."""
    return (
        f"Intervals and tests of {listed(labels)} are conditional on these weights: another training seed would give "
        "other weights, and how much they differ is not known from one run."
    )


def recipes_of[K](models: Sequence[TrainedModel[K]]) -> Recipes:
    """The recipes that several of the models are runs of. A run that is there twice, by its seeds, counts once.

    Differences are paired by seed where both recipes have the same seeds.
    """
    groups: dict[tuple[str, str], dict[tuple[int, ...], TrainedModel[K]]] = {}
    for one in models:
        key = (one.training.recipe, one.evaluation)
        groups.setdefault(key, {}).setdefault(one.training.seeds, one)
    several = [list(group.values()) for group in groups.values() if len(group) > 1]
    several = [group for group in several if len(_people(group)) > 1]
    names = _names(several)
    results = tuple(_result(name, group) for name, group in zip(names, several, strict=True))
    compared = [_pair(first, second) for first, second in combinations(zip(results, several, strict=True), 2)]
    found = [pair for pair in compared if pair is not None]
    corrected = iter(holm([estimate.p for pair in found for estimate in pair.by.values()]))
    pairs = [
        replace(pair, p_holm={name: p for name in pair.by if (p := next(corrected)) is not None}) for pair in found
    ]
    return Recipes(results, tuple(pairs))


def _result[K](name: str, group: Sequence[TrainedModel[K]]) -> RecipeResult:
    anew = _trained_anew(group)
    people = _people(group)
    design = _design(group[0], people)
    every = _pseudo_values(group, people)
    stages = group[0].training.stages
    return RecipeResult(
        name,
        tuple(one.label for one in group),
        tuple(tuple(one.training.seeds[i] for i in anew) for one in group),
        tuple(f"{_nth(i, stages)} (seed {group[0].training.seeds[i]})" for i in range(len(stages)) if i not in anew),
        len(people),
        {name: tuple(_number(column) for column in values.T) for name, values in every.items()},
        {
            name: _cut(estimate_recipe(values, design), *_ENDS[name])
            for name, values in every.items()
            if np.isfinite(values).all()
        },
    )


def _cut(estimate: RecipeEstimate, least: float, most: float) -> RecipeEstimate:
    """With an interval that ends where the number can be."""
    return replace(estimate, low=max(least, estimate.low), high=min(most, estimate.high))


def _pair[K](
    first: tuple[RecipeResult, Sequence[TrainedModel[K]]],
    second: tuple[RecipeResult, Sequence[TrainedModel[K]]],
) -> RecipePair | None:
    """Over the people, and the cells, that all runs of both have; None where those are too few."""
    (left, ours), (right, theirs) = first, second
    if ours[0].evaluation != theirs[0].evaluation:
        return None
    people = _people([*ours, *theirs])
    if len(people) < 2:
        return None
    design = _design(ours[0], people)
    ours_by, theirs_by = _by_seed(left, ours), _by_seed(right, theirs)
    common = [seeds for seeds in ours_by if seeds in theirs_by]
    paired = len(common) > 1
    if paired:
        ours, theirs = [ours_by[seeds] for seeds in common], [theirs_by[seeds] for seeds in common]
    by = {}
    for name, values in _pseudo_values([*ours, *theirs], people).items():
        if np.isfinite(values).all():
            found = compare_recipes(values[:, : len(ours)], values[:, len(ours) :], design, paired=paired)
            span = _ENDS[name][1] - _ENDS[name][0]
            by[name] = _cut(found, -span, span)
    return RecipePair(left.name, right.name, paired, len(people), by, {})


def _by_seed[K](result: RecipeResult, group: Sequence[TrainedModel[K]]) -> dict[tuple[int, ...], TrainedModel[K]]:
    """The runs by their seeds: by the different ones, in order, or by those of all stages where that is not one run."""
    different = [tuple(dict.fromkeys(seeds)) for seeds in result.seeds]
    keys = different if len(set(different)) == len(different) else result.seeds
    return dict(zip(keys, group, strict=True))


def _trained_anew[K](group: Sequence[TrainedModel[K]]) -> list[int]:
    """The numbers of the stages whose seeds are not the same in all runs."""
    return [i for i in range(len(group[0].training.seeds)) if len({one.training.seeds[i] for one in group}) > 1]


def _people[K](group: Sequence[TrainedModel[K]]) -> list[K]:
    return [key for key in group[0].cases if all(key in one.cases for one in group)]


def _design[K](model: TrainedModel[K], people: Sequence[K]) -> CaseDesign:
    return CaseDesign.of([model.cases[key].persona for key in people])


def _pseudo_values[K](group: Sequence[TrainedModel[K]], people: Sequence[K]) -> dict[Statistic, Array]:
    """Per-case values [N people, models] by statistic, of the ratings that all models have."""
    turns = min(one.turns for one in group)
    rated = np.stack([ratings_of_cases([one.cases[key] for key in people], turns) for one in group])
    rated = np.where(np.isnan(rated).any(axis=0), np.nan, rated)
    found = [case_pseudo_values(table) for table in rated]
    return {name: np.stack([own[name] for own in found], axis=1) for name in STATISTICS}


def _number(values: Array) -> Number:
    return float(values.mean()) if np.isfinite(values).all() else None


def _names[K](groups: Sequence[Sequence[TrainedModel[K]]]) -> list[str]:
    """What the names of a group's models have in common, and the recipe's digest where that is not enough."""
    names = [_common(group) or group[0].training.stages[-1] for group in groups]
    twice = {name for name, count in Counter(names).items() if count > 1}
    return [
        f"{name} {group[0].training.recipe[:6]}" if name in twice else name
        for name, group in zip(names, groups, strict=True)
    ]


def _common[K](group: Sequence[TrainedModel[K]]) -> str:
    """The models' common beginning, without what announces a seed: `dpo` of `dpo-s0` and `dpo-s10`."""
    without = [one.model.removesuffix(str(one.training.seeds[-1])) for one in group]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*without, strict=False))
    beginning = "".join(letters[0] for letters in alike)
    return _BEFORE_A_SEED.sub("", beginning)


def _nth(number: int, stages: Sequence[str]) -> str:
    """`sft`, or where a chain has several of them `sft (run 2 of 3)`."""
    if stages.count(stages[number]) == 1:
        return stages[number]
    return f"{stages[number]}, run {number + 1} of {len(stages)}"


def runs_text(result: RecipeResult) -> str:
    """`3 runs, seeds 0, 1, 2`."""
    return f"{counted(len(result.labels), 'run')}, seeds {result.seeds_text}"
