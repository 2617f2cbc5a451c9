"""Length-controlled AL: a judge of length alone has nothing left, one that ignores length keeps its differences."""

import re
from statistics import fmean

import numpy as np
import pytest

from aloe_jax.benchmark.length_control import Lengths, control_length
from aloe_jax.benchmark.number_text import number
from aloe_jax.benchmark.results import write_results
from aloe_jax.conversation import Persona
from aloe_jax.report.gathering import Run, from_runs, gather
from aloe_jax.report.length_controlled import length_controlled_runs
from aloe_jax.report.page import render
from aloe_jax.report.tables import latex, markdown
from tests.report import sample

CASES, TURNS = 100, 10
LENGTHS = {"short": 15, "middle": 25, "long": 40}  # words a reply of each model, about


def strangers(count):
    """People who share nothing."""
    return [Persona(id=f"p{n}", profile=f"profile {n}", personality=f"kind {n}") for n in range(count)]


def drawn(seed, quality, slope, growth=0.0, missing=0.0, link=0.0):
    """Three models: ratings of `quality[model]`, rising `growth` times a turn, plus `slope` times log(1 + words).

    `link` makes people who are rated higher throughout get longer replies throughout, for no reason of the judge's.
    """
    random = np.random.default_rng(seed)
    people = random.normal(0, 0.4, (CASES, 1))
    models = {}
    for name, length in LENGTHS.items():
        turn = np.arange(TURNS) * 0.03 * list(LENGTHS).index(name)  # a model that grows longer over the turns
        logs = np.log(length) + turn + link * people + random.normal(0, 0.3, (CASES, TURNS))
        words = np.maximum(np.round(np.exp(logs)), 1)
        level = quality[name] * (1 + growth * np.arange(TURNS)) + people + random.normal(0, 0.6, (CASES, TURNS))
        ratings = np.clip(np.round(level + slope * (np.log1p(words) - np.log(26))), 1, 5)
        lost = random.random((CASES, TURNS)) < missing
        ratings[lost], words[lost] = np.nan, np.nan
        models[name] = Lengths(strangers(CASES), ratings, words)
    return models


def differences(models):
    found = control_length(models)
    raw = {name: float(np.nanmean(own.ratings, axis=0).mean()) for name, own in models.items()}
    equal = {name: one.average.value for name, one in found.models.items()}
    return raw["long"] - raw["short"], equal["long"] - equal["short"], found


ALIKE = dict.fromkeys(LENGTHS, 3.0)
BETTER = {"short": 2.2, "middle": 2.8, "long": 3.6}


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_a_judge_of_length_alone_has_nothing_left(missing):
    raw, equal, found = differences(drawn(0, ALIKE, slope=0.8, missing=missing))
    assert raw > 0.8 and abs(equal) < 0.18  # three errors: 0.03 of each mean, 0.05 of the slope
    assert found.low < 0.8 * 0.97 < found.high  # rounding and cutting to 1..5 take a little
    assert all(one.correlation > 0.15 for one in found.models.values())


@pytest.mark.parametrize("growth", [0.0, 0.06])
@pytest.mark.parametrize("link", [0.0, 0.5])
def test_a_judge_that_ignores_length_keeps_its_differences(growth, link):
    """Also where the better model is the longer one, grows better and longer, and some people are rated higher."""
    raw, equal, found = differences(drawn(1, BETTER, slope=0.0, growth=growth, link=link))
    assert raw > 1.2 and equal == pytest.approx(raw, abs=0.15)  # three errors of the slope
    assert found.low < 0 < found.high
    if link:  # the correlation over all replies does not know that length changed nothing
        assert found.models["short"].correlation > 0.1


@pytest.mark.soak
def test_over_many_runs_the_slope_s_interval_holds_it_and_nothing_is_left():
    for slope, quality in ((0.8, ALIKE), (0.0, BETTER)):
        found = [differences(drawn(seed, quality, slope)) for seed in range(200)]
        values = np.array([one.slope for *_, one in found])
        truth = values.mean()  # of ratings that were rounded and cut, which differs a little from `slope`
        assert truth == pytest.approx(slope, abs=0.06)
        held = fmean(one.low <= truth <= one.high for *_, one in found)
        assert 0.91 <= held <= 0.99  # 95%, known to 0.03 (two errors of 200 runs), and a little for the mean
        expected = 0.0 if quality is ALIKE else fmean(raw for raw, *_ in found)
        assert fmean(equal for _, equal, _ in found) == pytest.approx(expected, abs=0.05)


def judged_by_profile(seed, people):
    """Two models whose judge rewards length more with some profiles than with others: 0.4 ± 0.4 by profile."""
    random = np.random.default_rng(seed)
    slopes = {profile: random.normal(0.4, 0.4) for profile in dict.fromkeys(one.profile for one in people)}
    slope = np.array([slopes[one.profile] for one in people])[:, None]
    models = {}
    for name in "ab":
        logs = random.normal(3.2, 0.4, (len(people), 6))
        ratings = 3 + slope * (logs - 3.2) + random.normal(0, 0.3, logs.shape)
        models[name] = Lengths(people, ratings, np.exp(logs) - 1)
    return models


def test_the_slope_s_interval_is_for_other_profiles_where_people_share_them():
    """10 profiles with 4 people each, 150 draws: 95% is known to 3 × 1.8 points.

    Taken for 40 people who share nothing, the same intervals hold the truth for two draws in three.
    """
    shared = [Persona(id=f"p{n}", profile=f"profile {n // 4}", personality=f"kind {n}") for n in range(40)]
    held = {"shared": [], "taken for strangers": []}
    for seed in range(150):
        models = judged_by_profile(seed, shared)
        as_strangers = {name: Lengths(strangers(40), own.ratings, own.words) for name, own in models.items()}
        for name, of in zip(held, (models, as_strangers), strict=True):
            found = control_length(of)
            held[name].append(found.low <= 0.4 <= found.high)
    assert fmean(held["shared"]) > 0.895
    assert fmean(held["taken for strangers"]) < 0.8


def test_the_interval_of_distinct_people_is_clustered_by_person():
    """Liang & Zeger's sandwich by hand: U / (U − 1) · Σ score² over the squared sum of squares, U − 1 degrees."""
    random = np.random.default_rng(3)
    words = random.integers(5, 60, (12, 4)).astype(float)
    ratings = np.clip(np.round(1 + 0.6 * np.log1p(words) + random.normal(0, 0.5, words.shape)), 1, 5)
    found = control_length({"a": Lengths(strangers(12), ratings, words)})

    def within(values):
        return values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()

    x, r = within(np.log1p(words)), within(ratings)
    scores = (x * (r - found.slope * x)).sum(axis=1)
    error = np.sqrt(12 / 11 * (scores**2).sum()) / (x**2).sum()
    assert found.high - found.slope == pytest.approx(2.200985 * error, rel=1e-6)  # t of 11 degrees, from a table


def test_by_hand():
    # One dialogue, two turns, two models: after the effects nothing is left to estimate a slope from.
    one = Lengths(strangers(1), np.array([[3.0, 4.0]]), np.array([[10.0, 20.0]]))
    nothing = control_length({"a": one, "b": one})
    assert nothing.slope is None and nothing.models["a"].average.value is None
    assert nothing.models["a"].words == 15
    # Ratings that are 1 + log2(1 + words) exactly: a slope of 1 / log 2, all models level.
    words = {"a": np.array([[1.0, 3.0], [3.0, 1.0]]), "b": np.array([[7.0, 3.0], [3.0, 7.0]])}
    models = {name: Lengths(strangers(2), 1 + np.log2(1 + own), own) for name, own in words.items()}
    exact = control_length(models)
    assert exact.slope == pytest.approx(1 / np.log(2)) and exact.per_doubling().value == pytest.approx(1)
    assert exact.models["a"].average.value == pytest.approx(exact.models["b"].average.value) == pytest.approx(3)
    assert exact.models["a"].correlation == pytest.approx(1)


def test_models_without_ratings_or_words_are_undefined():
    empty = Lengths(strangers(2), np.full((2, 2), np.nan), np.full((2, 2), np.nan))
    mute = Lengths(strangers(2), np.array([[2.0, 3.0], [3.0, 1.0]]), np.zeros((2, 2)))
    found = control_length({"empty": empty, "mute": mute})
    assert found.slope is None and found.models["empty"].average.value is None
    assert found.models["empty"].words is None and found.models["mute"].correlation is None
    assert control_length({}).models == {}


def test_it_stands_beside_al_wherever_the_numbers_go(tmp_path):
    people = sample.personas(10)
    first = [sample.talked(name, people, 2.5 + number, judges=("judge",)) for number, name in enumerate(("a", "b*"))]
    write_results(tmp_path / "run", sample.results(first, provider="openai"))
    report = gather([tmp_path / "run"])
    (found,) = length_controlled_runs(report)
    assert list(found.control.models) == ["a"] and found.differences == ()  # reference lines are not under test
    page = " ".join(render(report).split())
    equal = number(found.control.models["a"].average.value)
    assert len(re.findall(rf"<td>{equal}", page)) >= 2  # in the summary, and in the section
    assert 'id="length"' in page and "Rank correlation of rating and words" in page
    assert "Length-controlled average AL" in markdown(report) and "Length-controlled average AL" in latex(report)


def test_runs_have_slopes_of_their_own():
    people = sample.personas(10)
    runs = [
        Run(
            name,
            sample.results([sample.talked(model, people, 2 + n) for n, model in enumerate("xy")], provider="openai"),
        )
        for name in ("one", "two")
    ]
    found = length_controlled_runs(from_runs(runs))
    assert [one.run for one in found] == ["one", "two"]
    assert list(found[1].control.models) == ["x (two)", "y (two)"]
    (pair,) = found[1].differences
    assert pair.rated == pytest.approx(1, abs=0.3) and pair.controlled is not None
