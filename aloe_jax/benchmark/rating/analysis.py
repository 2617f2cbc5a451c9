"""How far people agree with each other, and the judges with the people: from a key and the files that people saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median

import numpy as np

from aloe_jax.benchmark.agreement import (
    Alpha,
    Average,
    Spearman,
    WeightedMean,
    WeightedStatistic,
    pairwise_spearman,
    spearman,
)
from aloe_jax.benchmark.human_ratings import HumanRatings, by_rater, ratings_of
from aloe_jax.benchmark.intervals import Array, bias_corrected, left_out, resamples, studentised
from aloe_jax.benchmark.rating.figures import Agreed, Agreements, Checked, OfJudge, OfModel, OfRater, PeopleAgreement
from aloe_jax.benchmark.rating.key import Key, cell_of
from aloe_jax.benchmark.rating.weights import drawn_cells, run_weights, unrated
from aloe_jax.benchmark.results import StoredAgreement, StoredEstimate, StoredWithPeople
from aloe_jax.errors import AloeError

ATTENTIVE = 0.8  # share of pairs of a good and a bad reply that a rater has to rank correctly
ALL_JUDGES = "all judges"  # their mean, where there are several
FURTHEST = 4.0  # the largest difference of two ratings


def compare(key: Key, files: Mapping[str, HumanRatings], bootstrap: int = 2000, seed: int = 0) -> PeopleAgreement:
    """All numbers, of files of ratings by path.

    Raises AloeError for a file that has nothing to do with the key, and where a person's files contradict each other.
    """
    for path, found in files.items():
        if found.ratings and not any(one.item in key.items or one.item in key.checks for one in found.ratings):
            raise AloeError(f"{path}: rates nothing of this key; give the key that was written beside its page")
    people = by_rater(files)
    items = rated_items(key, people)
    if not items:
        raise AloeError("these files hold no rating of a reply of the runs; give those of people who have begun")
    table = ratings_of(people, items)
    mean = np.array([np.nanmean(ratings) for ratings in table.T])
    judges = _judges(key, items)
    evenly = Draws([key.items[item].case for item in items], np.ones(len(items)), bootstrap, seed)
    runs = _as_in_runs(key, items, bootstrap, seed)
    return PeopleAgreement(
        simulated=key.simulated,
        items=len(items),
        cases=runs.cases,
        raters=[_rater(key, files, people, name) for name in people],
        as_drawn=_agreements(table, mean, judges, evenly),
        in_runs=_agreements(table, mean, judges, runs),
        bias={name: _bias(rated, mean, runs) for name, rated in judges.items()},
        models=bias_by_model(key, people, bootstrap, seed),
        missing=_missing(key, files, people, table),
    )


def rated_items(key: Key, people: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The items of a key that somebody (rater -> item -> rating) rated, in its order."""
    return [item for item in key.items if any(item in ratings for ratings in people.values())]


def compare_with_people(
    people: Mapping[str, Mapping[str, int]], key: Key, bootstrap: int = 2000, seed: int = 0
) -> StoredWithPeople:
    """Agreement of people (rater -> item -> rating) with the mean of the judges, replies counted as they fall in the
    runs that the key is of (`weights.whole_key`).

    What the key does not know counts as unknown and for nothing else: that may be an item of another run, or one of
    known quality that was mixed in, on which people agree too easily.
    """
    items = rated_items(key, people)
    table = ratings_of(people, items)
    mean = np.array([np.nanmean(ratings) for ratings in table.T])
    judge = next(iter(_judges(key, items).values()))
    weights = run_weights(key, items)[None]
    weights = weights / weights.mean() if items else weights  # which items count more, not how many were rated
    every = {item for ratings in people.values() for item in ratings}

    def agreed(ratings: Array) -> StoredAgreement:
        units = int(((~np.isnan(ratings)).sum(axis=0) >= 2).sum())
        alpha, rank = (
            float(of(weights)[0]) if items else np.nan for of in (Alpha(ratings), pairwise_spearman(ratings))
        )
        return StoredAgreement(raters=len(ratings), units=units, alpha=alpha, spearman=rank)

    return StoredWithPeople(
        raters=list(people),
        items=len(items),
        unknown=len(every) - len(items),
        people=agreed(table),
        judge=agreed(np.stack([mean, judge])),
        bias=_bias(judge, mean, _as_in_runs(key, items, bootstrap, seed)).value if items else None,
        weighted=True,
    )


def bias_by_model(
    key: Key, people: Mapping[str, Mapping[str, int]], bootstrap: int = 2000, seed: int = 0
) -> list[OfModel]:
    """How far the judges' mean rating of every model is from that of the people (rater -> item -> rating), replies
    counted as they fall in the runs. A judge that likes a model better than people do, by more than it likes the
    others, favours it."""
    items = rated_items(key, people)
    mean = np.array([np.nanmean(ratings) for ratings in ratings_of(people, items).T])
    return _models(key, items, mean, _as_in_runs(key, items, bootstrap, seed))


def _as_in_runs(key: Key, items: Sequence[str], bootstrap: int, seed: int) -> Draws:
    return Draws([key.items[item].case for item in items], run_weights(key, items), bootstrap, seed)


def _bias(judge: Array, people: Array, draws: Draws) -> StoredEstimate:
    return draws.mean(WeightedMean(judge - people), -FURTHEST, FURTHEST)


# ---------------------------------------------------------------- judges and people


def _judges(key: Key, items: Sequence[str]) -> dict[str, Array]:
    """Every judge's ratings [U] of the items, NaN where it gave none; the mean of several first."""
    places = [key.items[item].places for item in items]
    every = np.array([fmean(place.rating for place in some) for some in places])
    names = key.judges()
    if len(names) < 2:
        return {names[0] if names else "judge": every}
    of = {name: [[place.judges[name] for place in some if name in place.judges] for some in places] for name in names}
    alone = {name: np.array([fmean(given) if given else np.nan for given in some]) for name, some in of.items()}
    return {ALL_JUDGES: every, **alone}


def _agreements(table: Array, mean: Array, judges: Mapping[str, Array], draws: Draws) -> Agreements:
    def agreed(units: int, alpha: WeightedStatistic, rank: WeightedStatistic) -> Agreed:
        return Agreed(units=units, alpha=draws.correlation(alpha), spearman=draws.correlation(rank))

    def with_one(rated: Array) -> Agreed:
        alpha = Average([Alpha(np.stack([person, rated])) for person in table])
        return agreed(_units(rated, mean), alpha, Average([Spearman(person, rated) for person in table]))

    def with_mean(rated: Array) -> Agreed:
        return agreed(_units(rated, mean), Alpha(np.stack([mean, rated])), Spearman(mean, rated))

    shared = int(((~np.isnan(table)).sum(axis=0) >= 2).sum())
    return Agreements(
        people=agreed(shared, Alpha(table), pairwise_spearman(table)),
        judges=[
            OfJudge(judge=name, with_one=with_one(rated), with_mean=with_mean(rated)) for name, rated in judges.items()
        ],
    )


def _units(first: Array, second: Array) -> int:
    return int((~np.isnan(first) & ~np.isnan(second)).sum())


def _models(key: Key, items: Sequence[str], mean: Array, draws: Draws) -> list[OfModel]:
    judged, rated, drawn = {}, {}, drawn_cells(key, items)
    for model in key.models():
        own = [[place for place in key.items[item].places if place.model == model] for item in items]
        there = [[place.rating for place in some if cell_of([place]) in drawn] for some in own]
        judged[model] = np.array([fmean(given) if given else np.nan for given in there])
        rated[model] = np.where(np.isnan(judged[model]), np.nan, mean)
    bias = {model: WeightedMean(judged[model] - rated[model]) for model in judged}

    def favour(model: str) -> WeightedStatistic:
        others = Average([bias[other] for other in bias if other != model])
        return lambda weights: bias[model](weights) - others(weights)

    return [
        OfModel(
            model=model,
            items=_units(judged[model], mean),
            people=draws.mean(WeightedMean(rated[model]), 1.0, 5.0),
            judge=draws.mean(WeightedMean(judged[model]), 1.0, 5.0),
            bias=draws.mean(bias[model], -FURTHEST, FURTHEST),
            favour=draws.mean(favour(model), -2 * FURTHEST, 2 * FURTHEST) if len(bias) > 1 else None,
        )
        for model in judged
    ]


# ---------------------------------------------------------------- raters


def _rater(key: Key, files: Mapping[str, HumanRatings], people: Mapping[str, Mapping[str, int]], name: str) -> OfRater:
    own = [found for found in files.values() if found.rater == name]
    said = {one.item: one for found in own for one in found.ratings if not one.undecided}
    pages = [page for page in key.pages if any(found.page == page.page for found in own)]
    shown = {item for page in pages for item in page.items}
    rated = {item: rating for item, rating in people[name].items() if item in key.items}
    others = {item: [r[item] for rater, r in people.items() if rater != name and item in r] for item in rated}
    shared = [(rating, fmean(others[item])) for item, rating in rated.items() if others[item]]
    seconds = [one.seconds for one in said.values() if one.seconds is not None and one.rating is not None]
    return OfRater(
        rater=name,
        pages=[page.file for page in pages],
        rated=len(rated),
        passed=sum(one.rating is None and item in key.items and item not in rated for item, one in said.items()),
        missing=len(shown - said.keys()),
        mean=_mean(rated.values()),
        seconds=median(seconds) if seconds else None,
        spearman=spearman(*zip(*shared, strict=True)) if shared else None,
        checks=_checked(key, people[name]),
    )


def _checked(key: Key, ratings: Mapping[str, int]) -> Checked | None:
    given = [(check.quality, ratings[item]) for item, check in key.checks.items() if item in ratings]
    if not key.checks:
        return None
    best = max(check.quality for check in key.checks.values())
    good = [rating for quality, rating in given if quality == best]
    bad = [rating for quality, rating in given if quality < best]
    pairs = [g > b for g in good for b in bad]
    share = fmean(pairs) if pairs else None
    attentive = None if share is None else share >= ATTENTIVE
    return Checked(given=len(given), good=_mean(good), bad=_mean(bad), told_apart=share, attentive=attentive)


def _mean(values: Iterable[float]) -> float | None:
    given = list(values)
    return fmean(given) if given else None


# ---------------------------------------------------------------- what is missing


def _missing(
    key: Key, files: Mapping[str, HumanRatings], people: Mapping[str, Mapping[str, int]], table: Array
) -> list[str]:
    """What keeps the numbers from being all that they could be, in words."""
    gaps = []
    for page in key.pages:
        back = {found.rater: found for found in files.values() if found.page == page.page}
        if not back:
            gaps.append(f"{page.file}: nobody has sent ratings back")
        for rater in back:
            said = {
                one.item
                for found in files.values()
                if found.rater == rater
                for one in found.ratings
                if not one.undecided
            }
            if left := len(set(page.items) - said):
                gaps.append(f"{page.file}: {rater} has not answered {left} of {len(page.items)}")
    known = {page.page for page in key.pages}
    for path, found in files.items():
        if found.page not in known:
            gaps.append(f"{path}: is of a page that this key does not know; counted as far as it shares replies")
        if strange := [one for one in found.ratings if one.item not in key.items and one.item not in key.checks]:
            gaps.append(f"{path}: {len(strange)} of its ratings are of replies that this key does not know")
    alone, of = unrated(key, rated_items(key, people))
    if alone:
        gaps.append(
            f"ratings of {alone} of {of} replies of the runs: nobody has rated one of their model and rating, so that "
            "the weighted numbers leave them out"
        )
    if len(people) < 2:
        gaps.append("a second person: with one rater nothing can be said about agreement among people")
    elif not ((~np.isnan(table)).sum(axis=0) >= 2).any():
        gaps.append("replies that two people rated: there are none, so nothing can be said about agreement among them")
    return gaps


# ---------------------------------------------------------------- intervals


class Draws:
    """Weights of U items: as they are, without each case, and in resamples, which draw cases with all their items.

    A key does not say which profiles and personalities its cases share: they are taken as given, and intervals are for
    other cases of these (`figures.INTERVALS`).
    """

    def __init__(self, cases: Sequence[str], weights: Array, bootstrap: int, seed: int) -> None:
        """`cases` name the case of each item."""
        names = {name: number for number, name in enumerate(dict.fromkeys(cases))}
        own = np.array([names[name] for name in cases], int)
        self.cases = len(names)
        self._drawn = resamples(len(names), bootstrap, seed)  # [S, N]
        # A mean of one: the weights say which items count more, not how many were rated.
        scaled = weights / weights.mean() if len(weights) else weights
        self._whole = scaled[None]
        self._without, self._samples = (draws[:, own] * scaled for draws in (left_out(len(names)), self._drawn))

    def correlation(self, statistic: WeightedStatistic) -> StoredEstimate:
        """A number that is biased in small samples and at most 1, such as alpha and rank correlation."""
        value, without, samples = (statistic(weights) for weights in (self._whole, self._without, self._samples))
        ends = bias_corrected(value, without[:, None], samples[:, None], -1.0, 1.0)
        return _estimate(value, ends)

    def mean(self, statistic: WeightedStatistic, least: float, most: float) -> StoredEstimate:
        """A mean of items, or a difference of such means, which is between `least` and `most`."""
        value = statistic(self._whole)
        return _estimate(value, studentised(value, statistic(self._without)[:, None], self._drawn, least, most))


def _estimate(value: Array, ends: Array) -> StoredEstimate:
    return StoredEstimate(value=value[0], low=ends[0, 0], high=ends[1, 0])
