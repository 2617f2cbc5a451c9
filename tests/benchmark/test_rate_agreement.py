"""Agreement of people and judges: against what can be computed by hand, and against raters of known noise."""

import json
from statistics import fmean

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from aloe_jax.benchmark.agreement import (
    Alpha,
    Spearman,
    krippendorff_alpha,
    mean_spearman,
    pairwise_spearman,
    spearman,
)
from aloe_jax.benchmark.human_ratings import HumanRating, HumanRatings, by_rater, read_people
from aloe_jax.benchmark.rating.analysis import ALL_JUDGES, compare, compare_with_people
from aloe_jax.benchmark.rating.figures import INTERVALS, PeopleAgreement
from aloe_jax.benchmark.rating.key import Check, Item, Key, Page, ReplyPlace
from aloe_jax.benchmark.rating.pages import write_pages
from aloe_jax.benchmark.rating.sample import RatedReply, draw
from aloe_jax.conversation import Persona
from aloe_jax.errors import AloeError
from aloe_jax.rate import main
from tests.benchmark.rated_runs import write_run

# ---------------------------------------------------------------- weights


def ratings(raters, units):
    cell = st.one_of(st.just(np.nan), st.integers(1, 5).map(float))
    return st.lists(st.lists(cell, min_size=units, max_size=units), min_size=raters, max_size=raters).map(np.array)


@given(ratings(3, 7), st.lists(st.integers(0, 3), min_size=7, max_size=7))
def test_a_weight_is_the_unit_that_often(table, weights):
    repeated = np.repeat(table, weights, axis=1)
    drawn = np.array([weights, np.ones(7)], float)
    for statistic, whole in ((Alpha(table), krippendorff_alpha), (pairwise_spearman(table), mean_spearman)):
        found = statistic(drawn)
        assert found[1] == pytest.approx(whole(table), nan_ok=True)
        assert found[0] == pytest.approx(whole(repeated), nan_ok=True)


def test_fractions_as_weights():
    first, second = np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 4, 3])
    table = np.stack([first, second])
    halves = np.full((1, 4), 0.5)
    assert Spearman(first, second)(halves)[0] == pytest.approx(spearman(first, second)) == pytest.approx(0.8)
    assert Alpha(table)(np.array([[1.0, 1, 0, 0]]))[0] == pytest.approx(1)  # only where they agree


# ---------------------------------------------------------------- by hand


def hand_key(**more):
    """Two models, two cases; ratings of the judges by item, weights 1 and 3."""

    def item(case, weight, model, turn, one, two):
        place = ReplyPlace(model=model, turn=turn, rating=(one + two) / 2, judges={"first": one, "second": two})
        return Item(case=case, weight=weight, places=[place])

    items = {
        "i1": item("c1", 1, "a", 1, 2, 2),
        "i2": item("c1", 3, "a", 2, 4, 2),
        "i3": item("c2", 1, "b", 1, 5, 5),
        "i4": item("c2", 3, "b", 2, 4, 4),
    }
    page = Page(file="rate.html", page="p1", items=[*items, *more.get("checks", {})])
    return Key(seed=0, simulated=["the users"], pages=[page], items=items, **more)


def file(rater, given, page="p1", **more):
    found = [HumanRating(item=item, rating=rating, **more) for item, rating in given.items()]
    return HumanRatings(rater=rater, page=page, ratings=found)


ANNA = {"i1": 1, "i2": 3, "i3": 5, "i4": 4}
BEN = {"i1": 3, "i2": 3, "i3": 4}


def test_numbers_of_four_replies():
    found = compare(hand_key(), {"a.json": file("anna", ANNA), "b.json": file("ben", BEN)}, bootstrap=50)
    assert (found.items, found.cases, found.simulated) == (4, 2, ["the users"])
    # People's means are 2, 3, 4.5, 4; the judges' means 2, 3, 5, 4.
    every, first, second = found.as_drawn.judges
    assert [one.judge for one in found.as_drawn.judges] == [ALL_JUDGES, "first", "second"]
    assert every.with_mean.spearman.value == pytest.approx(1)
    assert first.with_mean.spearman.value == pytest.approx(spearman([2, 4, 5, 4], [2, 3, 4.5, 4]))
    nan = np.nan
    table = np.array([[1, 3, 5, 4], [3, 3, 4, nan]])
    assert found.as_drawn.people.alpha.value == pytest.approx(krippendorff_alpha(table))
    assert found.as_drawn.people.spearman.value == pytest.approx(mean_spearman(table))
    assert (found.as_drawn.people.units, every.with_mean.units) == (3, 4)
    alone = [krippendorff_alpha(np.stack([row, [2, 2, 5, 4]])) for row in table]
    assert second.with_one.alpha.value == pytest.approx(fmean(alone))
    # Weighted: a's two replies are one and three of the run's, as are b's.
    by_model = {one.model: one for one in found.models}
    assert by_model["a"].people.value == pytest.approx((2 + 3 * 3) / 4)
    assert by_model["b"].people.value == pytest.approx((4.5 + 3 * 4) / 4)
    assert by_model["b"].judge.value == pytest.approx((5 + 3 * 4) / 4)
    assert by_model["a"].bias.value == 0 and by_model["b"].bias.value == pytest.approx(0.125)
    assert by_model["b"].favour.value == pytest.approx(0.125) == pytest.approx(-by_model["a"].favour.value)
    assert found.bias[ALL_JUDGES].value == pytest.approx(0.5 / 8)
    assert found.bias["first"].value == pytest.approx((0 + 3 * 1 + 0.5 + 0) / 8)
    repeated = np.repeat(table, [1, 3, 1, 3], axis=1)
    assert found.in_runs.people.spearman.value == pytest.approx(mean_spearman(repeated))


def test_the_report_of_the_run_finds_the_same_numbers():
    files = {"a.json": file("anna", ANNA), "b.json": file("ben", BEN)}
    run = compare_with_people(by_rater(files), hand_key())
    found = compare(hand_key(), files, bootstrap=10)
    here = found.in_runs
    assert here.people.alpha.value == pytest.approx(run.people.alpha)
    assert here.people.spearman.value == pytest.approx(run.people.spearman)
    assert here.judges[0].with_mean.alpha.value == pytest.approx(run.judge.alpha)
    assert here.judges[0].with_mean.spearman.value == pytest.approx(run.judge.spearman)
    assert found.bias[ALL_JUDGES].value == pytest.approx(run.bias) and run.weighted


def test_raters_and_what_is_missing():
    checks = {f"g{n}": Check(kind="informed", quality=3) for n in range(2)}
    checks |= {f"b{n}": Check(kind="empty", quality=1) for n in range(2)}
    anna = file("anna", {**ANNA, "g0": 5, "g1": 4, "b0": 1, "b1": 2}, seconds=8.0)
    said = [HumanRating(item="i1", rating=None, note="?", undecided=True), HumanRating(item="i2", rating=None)]
    ben = HumanRatings(rater="ben", page="p1", ratings=[*said, *file("ben", {"i3": 2, "g0": 3, "b0": 3}).ratings])
    key = hand_key(checks=checks)
    key = key.model_copy(update={"pages": [*key.pages, Page(file="rate-2.html", page="p2", items=["i1"])]})
    found = compare(key, {"a.json": anna, "b.json": ben}, bootstrap=10)
    first, second = found.raters
    assert (first.rated, first.passed, first.missing, first.seconds, first.mean) == (4, 0, 0, 8.0, 3.25)
    assert (second.rated, second.passed, second.missing, second.seconds) == (1, 1, 4, None)
    assert (
        first.checks.told_apart == 1 and first.checks.attentive and (first.checks.good, first.checks.bad) == (4.5, 1.5)
    )
    assert second.checks.told_apart == 0 and second.checks.attentive is False and second.checks.given == 2
    assert found.items == 4  # checks are no replies of the runs
    assert found.missing == ["rate.html: ben has not answered 4 of 8", "rate-2.html: nobody has sent ratings back"]
    alone = compare(hand_key(), {"a.json": file("anna", {"i1": 2, "zz": 1}, page="other")}, bootstrap=10)
    assert [line.split(":")[0] for line in alone.missing] == [
        "rate.html", "a.json", "a.json", "ratings of 7 of 8 replies of the runs", "a second person"
    ]  # fmt: skip
    assert alone.as_drawn.people.alpha.value is None and alone.models[1].bias.value is None
    with pytest.raises(AloeError, match=r"a\.json: rates nothing of this key"):
        compare(hand_key(), {"a.json": file("anna", {"zz": 1})})
    with pytest.raises(AloeError, match="no rating of a reply"):
        compare(key, {"a.json": file("anna", {"g0": 1})})
    with pytest.raises(AloeError, match="another rating"):
        compare(key, {"a.json": anna, "b.json": file("anna", {"i1": 5})})


# ---------------------------------------------------------------- raters of known noise

LEVELS = {"weak": 1.9, "middle": 2.8, "strong": 3.4}


def trial(seed, favour=None, weighted=True, noise=0.6):
    """People and a judge with the same noise around a quality; the judge likes some models better by `favour`."""
    random = np.random.default_rng(seed)

    def rated(quality):
        return int(np.clip(round(quality + random.normal(0, noise)), 1, 5))

    quality, found = {}, []
    for model, level in LEVELS.items():
        for case in range(60):
            own = level + random.normal(0, 0.5)
            for turn in range(5):
                item = f"{model} {case} {turn}"
                quality[item] = own + random.normal(0, 0.7)
                rating = rated(quality[item] + (favour or {}).get(model, 0))
                place = ReplyPlace(model=model, turn=turn + 1, rating=rating, judges={"judge": rating})
                persona = Persona(id=f"p{case}", profile=f"{case}", personality="x")
                found.append(RatedReply(item, persona, (), "", (place,)))
    sample = draw(found, 1, 90, 1.0, seed)
    (drawn,) = sample.pages
    items = {
        one.item: Item(case=one.persona.id, weight=sample.weights[one.item] if weighted else 1, places=[*one.places])
        for one in drawn
    }
    key = Key(seed=0, simulated=[], pages=[Page(file="f", page="p1", items=list(items))], items=items)
    files = {name: file(name, {item: rated(quality[item]) for item in items}) for name in "abc"}
    return compare(key, files, bootstrap=200)


def test_a_judge_that_favours_a_model_is_seen():
    favours = {one.model: one.favour for one in trial(1, favour={"middle": 1.0}).models}
    assert favours["middle"].low > 0.2 and 0.5 < favours["middle"].value < 1
    assert favours["weak"].value < 0 and favours["strong"].value < 0


def test_a_judge_without_bias_seems_to_have_none_and_only_weights_bring_that_about():
    def flattery(weighted):
        found = [{one.model: one.bias.value for one in trial(seed, weighted=weighted).models} for seed in range(6)]
        return fmean(bias["weak"] - bias["strong"] for bias in found)

    assert abs(flattery(weighted=True)) < 0.2
    assert flattery(weighted=False) > 0.35


def test_noise_shows_and_a_judge_as_good_as_a_person_agrees_as_one():
    clear, blurred = trial(3, noise=0.4), trial(3, noise=1.2)
    assert clear.in_runs.people.alpha.low > blurred.in_runs.people.alpha.high
    for found in (clear, blurred):
        judge = found.in_runs.judges[0]
        assert abs(judge.with_one.alpha.value - found.in_runs.people.alpha.value) < 0.13
        assert judge.with_mean.spearman.value > judge.with_one.spearman.value
        for one in (found.as_drawn, found.in_runs):
            assert one.people.alpha.low < one.people.alpha.value < one.people.alpha.high


# ---------------------------------------------------------------- the command


def test_from_the_run_to_the_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = write_run(tmp_path / "run")
    arguments = ["page", "run", "--items", "30", "--raters", "2", "--overlap", "0.5", "--checks", "4", "--seed", "7"]
    told = CliRunner().invoke(main, arguments)
    assert told.exit_code == 0, told.output
    assert [line.split()[0] for line in told.output.splitlines()] == ["rate-1.html", "rate-2.html", "rate.key.json"]
    key = json.loads((tmp_path / "rate.key.json").read_text())
    judged = {turn.item: turn.rating for cases in results.cases.values() for case in cases for turn in case.turns}
    for name, page in zip(("anna", "ben"), key["pages"], strict=True):
        given = {item: round(judged.get(item, 3)) for item in page["items"]}
        given |= {item: check["quality"] + 1 for item, check in key["checks"].items()}
        (tmp_path / f"ratings-{name}.json").write_text(file(name, given, page=page["page"]).model_dump_json())
    arguments = ["agreement", "ratings-anna.json", "ratings-ben.json", "--key", "rate.key.json", "--bootstrap", "50"]
    told = CliRunner().invoke(main, arguments)
    assert told.exit_code == 0, told.output
    for words in ("people with each other", "sternjudge: one person", "zebramodel", "100%", "simulated"):
        assert words in told.output
    assert "missing:" not in told.output
    assert INTERVALS in " ".join(told.output.split())
    found = PeopleAgreement.model_validate_json((tmp_path / "rate.agreement.json").read_text())
    assert found.items == 45 and found.as_drawn.people.units == 15
    assert found.as_drawn.people.alpha.value == pytest.approx(1)
    assert found.as_drawn.judges[0].with_mean.spearman.value > 0.9
    # The files are those that `judging.people` takes.
    assert set(read_people(["ratings-anna.json", "ratings-ben.json"])) == {"anna", "ben"}


def test_a_reply_of_two_models_counts_for_both(tmp_path):
    for name in "ab":
        write_run(tmp_path / name, models=("same",), cases=4, turns=2)
    _, where = write_pages([tmp_path / "a", tmp_path / "b"], tmp_path / "rate.html", items=8)
    key = Key.model_validate_json(where.read_text())
    found = compare(key, {"x": file("anna", dict.fromkeys(key.items, 3), page=key.pages[0].page)}, bootstrap=10)
    first, second = found.models
    assert first.items == second.items == 8 and first.bias == second.bias and first.favour.value == 0
