"""All tests of a run are one family: differences and dialogues side by side are corrected together."""

import itertools
import json

import numpy as np
import pytest

from aloe_jax.benchmark.comparison import compare_all, holm
from aloe_jax.benchmark.joint_correction import corrected_together
from aloe_jax.benchmark.pairwise import sign_test
from aloe_jax.benchmark.results import METRICS, StoredSideBySide, load_results
from aloe_jax.report.differences import JudgedPair, least_p, pairs_within, with_sides
from aloe_jax.report.gathering import gather
from tests.report import sample


def side(first, second, wins, losses, **more):
    values = {
        "first": first, "second": second, "wins": wins, "ties": 0, "losses": losses, "win_rate": 0.5, "low": 0.4,
        "high": 0.6, "p": sign_test(wins, losses), "shown_first": 0.5, "contradictions": 0.0, "coverage": 1.0,
        "outcomes": ["second"] * wins + ["first"] * losses,
    } | more  # fmt: skip
    return StoredSideBySide.model_validate(values)


def test_one_family():
    random = np.random.default_rng(0)
    tables = {name: random.integers(1, 6, (30, 4)).astype(float) for name in "abc"}
    alone = compare_all(tables, 200, 1000)
    sides = [side("a", "b", 15, 3), side("a", "c", 9, 8), side("b", "c", 0, 0)]
    differences, judged = corrected_together(alone, sides)
    tests = [one.p for one in (*alone, *sides)]
    assert tests[-1] is None and len(tests) == 12
    assert [one.p_holm for one in (*differences, *judged)] == holm(tests)
    assert all(now.p_holm >= before.p_holm for now, before in zip(differences, alone, strict=True))
    assert judged[0].p_holm > judged[0].p and judged[2].p_holm is None


def test_the_error_of_the_family_is_kept():
    """With no difference anywhere, of 400 families of 12 sign tests at most 5% have any p-value below 5%."""
    random = np.random.default_rng(1)
    wrong = before = 0
    runs = 400
    for _ in range(runs):
        differences = compare_all({name: random.integers(1, 6, (20, 3)) for name in "abc"}, 20, 999)
        sides = [side("a", "b", wins := int(random.binomial(60, 0.5)), 60 - wins) for _ in range(3)]
        tests = [*itertools.chain(*corrected_together(differences, sides))]
        assert len(tests) == 12
        wrong += any(one.p_holm < 0.05 for one in tests)
        before += any(one.p < 0.05 for one in tests)
    # The standard deviation of a rate of 5% is 1.1%.
    assert wrong / runs < 0.05 + 3 * 0.011 and before / runs > 0.2


@pytest.fixture
def runs(tmp_path):
    people = sample.strangers(8)
    for number, name in enumerate(("first", "second")):
        spoken = [sample.talked(f"m{number}{k}", people, 2.0 + k / 2) for k in range(2)]
        results = sample.results(spoken, provider="openai")
        sides = [side(f"m{number}0", f"m{number}1", 7, 1)]
        differences, sides = corrected_together(results.differences, sides)
        changed = results.model_copy(update={"differences": differences, "side_by_side": sides})
        sample.write_results(tmp_path / name, changed)
    return tmp_path


def test_the_report_shows_what_a_run_stored(runs):
    results = load_results(runs / "first")
    report = gather([runs / "first"])
    (judged,) = report.sides
    assert judged.found.p_holm == results.side_by_side[0].p_holm > results.side_by_side[0].p
    assert [pair.by for pair in report.pairs] == [pair.by for pair in pairs_within(results)]
    assert least_p(results) == 4 / (1 + results.settings["permutations"])


def test_between_runs_all_tests_are_one_family(runs):
    report = gather([runs / "first", runs / "second"])
    tests = [one.p for pair in report.pairs for one in pair.by.values()] + [one.found.p for one in report.sides]
    shown = [one.p_holm for pair in report.pairs for one in pair.by.values()] + [
        one.found.p_holm for one in report.sides
    ]
    assert shown == holm(tests) and len(tests) == 6 * 3 + 2


def test_a_run_of_an_earlier_version_is_corrected_when_it_is_read(runs):
    """Its sign tests have no corrected p-value, and those of its differences are corrected among themselves."""
    path = runs / "first" / METRICS
    values = json.loads(path.read_text())
    del values["side_by_side"][0]["p_holm"]
    for difference, p in zip(values["differences"], holm([one["p"] for one in values["differences"]]), strict=True):
        difference["p_holm"] = p
    path.write_text(json.dumps(values))
    results = load_results(runs / "first")
    assert results.side_by_side[0].p_holm is None
    pairs, (judged,) = with_sides(pairs_within(results), {"first": results})
    assert isinstance(judged, JudgedPair)
    family = [one.p for pair in pairs for one in pair.by.values()] + [judged.found.p]
    assert [*(one.p_holm for pair in pairs for one in pair.by.values()), judged.found.p_holm] == holm(family)
