import json

import pytest

from aloe_jax.benchmark.case_design import CaseDesign
from aloe_jax.benchmark.comparison import compare_all
from aloe_jax.benchmark.results import load_results
from aloe_jax.errors import AloeError
from aloe_jax.llm.world import VERSION
from aloe_jax.report.differences import least_p, significant
from aloe_jax.report.gathering import Run, from_runs, gather, unlike
from aloe_jax.report.page import missing, render
from tests.report import sample


def labels(report):
    return [entry.label for entry in report.entries]


def test_a_model_bears_its_runs_name_only_where_it_must(one, both):
    assert labels(one) == ["low*", "a<b> & $c_1$", "good"]
    assert labels(both) == ["low*", "a<b> & $c_1$", "good (first)", "good (second)", "other"]
    assert len({entry.look for entry in both.entries}) == 5
    assert [entry.label for entry in both.models] == labels(both)[1:]


def test_runs_are_named_by_directory_by_parents_or_as_told(runs, tmp_path):
    for folder in ("a", "b"):
        sample.write_preferences(tmp_path / folder / "out")
    report = gather([tmp_path / "a/out", tmp_path / "b/out", f"told={runs}/second"])
    assert [run.name for run in report.runs] == ["a/out", "b/out", "told"]
    with pytest.raises(AloeError, match="is given twice"):
        gather([runs / "second", runs / "second"])
    odd = tmp_path / "x=y"
    sample.write_preferences(odd)
    assert gather([odd]).runs[0].name == "x=y"


def test_differences_of_one_run_are_those_it_stored(one, runs):
    stored = load_results(runs / "first").differences
    assert [found for pair in one.pairs for found in pair.by.values()] == stored


def test_between_runs_they_are_computed_as_within_one_and_corrected_together(clear, tmp_path):
    """A run cut in two gives the differences of the whole run, but for the models' names."""
    (whole,) = clear.runs
    for number, names in enumerate((["weak", "strong"], ["middle"])):
        kept = whole.results.model_copy(
            update={
                "models": {name: whole.results.models[name] for name in names},
                "cases": {name: whole.results.cases[name] for name in names},
                "differences": [],
            }
        )
        sample.write_results(tmp_path / f"part{number}", kept)
    parts = gather([tmp_path / "part0", tmp_path / "part1"])
    assert {(p.first, p.second): p.by for p in parts.pairs} == {(p.first, p.second): p.by for p in clear.pairs}
    assert unlike(parts.runs) == []


def test_there_are_enough_permutations_for_all_tests(clear, tmp_path):
    """Ten models make 135 tests: 400 permutations would leave no corrected p-value below 0.33."""
    (run,) = clear.runs
    weak, strong = (run.results.models[name] for name in ("weak", "strong"))
    parts = []
    for number in range(5):
        names = {f"weak{number}": weak, f"strong{number}": strong}
        cases = {
            name: [case.model_copy(update={"model": name}) for case in run.results.cases[name[:-1]]] for name in names
        }
        results = run.results.model_copy(update={"models": names, "cases": cases, "differences": []})
        parts.append(Run(f"r{number}", results))
    report = from_runs(parts)
    assert len(report.pairs) == 45
    apart = [pair for pair in report.pairs if pair.first[:-1] != pair.second[:-1]]
    assert all(significant(pair.by["average"]) for pair in apart) and len(apart) == 25
    assert least_p(run.results) == 9 / 401
    few = run.results.model_copy(update={"settings": {**run.results.settings, "permutations": 100}})
    assert "Too few permutations" in render(from_runs([Run("few", few)]))
    assert "Too few permutations" not in render(clear)


def test_only_shared_people_and_turns_are_compared(runs, tmp_path):
    sample.write_plain(tmp_path / "short", names=("brief",), cases=4, turns=2, seed=5)
    report = gather([runs / "first", tmp_path / "short"])
    (pair,) = [pair for pair in report.pairs if {pair.first, pair.second} == {"good", "brief"}]
    assert (pair.cases, pair.turns) == (4, 2)
    good, brief = (next(e for e in report.entries if e.model == name) for name in ("good", "brief"))
    keys = [key for key in good.cases if key in brief.cases]
    tables = {
        entry.label: [
            [float("nan") if t.rating is None else t.rating for t in entry.cases[key].turns[:2]]
            + [float("nan")] * (2 - len(entry.cases[key].turns))
            for key in keys
        ]
        for entry in (good, brief)
    }
    design = CaseDesign.of([good.cases[key].persona for key in keys])
    (average, *_) = compare_all(tables, bootstrap=60, permutations=400, design=design)
    assert pair.by["average"].value == pytest.approx(average.value)
    assert pair.by["average"].p == pytest.approx(average.p)
    told = " ".join(unlike(report.runs))
    assert "turns: 4 in first; 2 in short" in told and "cases: 6 in first; 4 in short" in told
    assert f"users: scripted/world {VERSION} in first; openai/m-1 in short" in told and "the people" in told


def test_runs_without_common_people_are_not_compared(runs, tmp_path):
    people = [person.model_copy(update={"id": f"other-{person.id}"}) for person in sample.personas()]
    sample.write_results(tmp_path / "far", sample.results([sample.talked("far", people, 3)]))
    report = gather([runs / "second", tmp_path / "far"])
    assert {pair.first for pair in report.pairs} | {pair.second for pair in report.pairs} == {"good", "other"}


def test_the_best_stands_out_only_by_the_corrected_test(clear, undecided):
    strong = clear.best("average")
    assert strong.label == "strong" and clear.stands_out(strong, "average")
    assert not clear.stands_out(clear.entries[2], "average")  # not the best
    assert not clear.stands_out(clear.best("ir"), "ir")  # no slopes that differ
    best = undecided.best("average")
    assert [rival.label for rival in undecided.rivals(best, "average")] == ["a<b> & $c_1$"]


def test_an_identical_reference_line_is_told_once(runs, tmp_path):
    sample.write_hostile(tmp_path / "again")
    assert labels(gather([runs / "first", tmp_path / "again"])).count("low*") == 1
    path = tmp_path / "again/transcripts.jsonl"
    path.write_text(path.read_text().replace("low* says 0", "low* said 0"))
    found = labels(gather([runs / "first", tmp_path / "again"]))
    assert [label for label in found if "low" in label] == ["low* (first)", "low* (again)"]


def test_what_is_simulated_is_told_by_run(one, both, clear):
    assert one.simulated == "the users, the judges and the reference lines" and not one.mixed
    assert both.simulated == "in first the users, the judges and the reference lines" and both.mixed
    assert clear.simulated == ""


def test_what_is_missing_is_told_in_words(one):
    low, _, good = one.entries
    assert missing(low.numbers) == [] and not one.complete
    rated, stopped, votes, bounds = missing(good.numbers)
    assert rated == "4 replies of 24 without a rating: 1 at turn 2, 2 at turn 3 and 1 at turn 4"
    assert stopped == "1 dialogue stopped early: turn 2: the model was silent"
    assert votes == "83.3% of the votes asked for are there"
    least, most = (getattr(good.numbers.bounds["average"], end) for end in ("least", "most"))
    assert f"Average AL {least:.2f} to {most:.2f}" in bounds and least < good.numbers.average.value < most


def test_people_are_compared_run_by_run_and_model_by_model(both):
    first, second = both.people
    assert first.found.raters == ["anna", "ben"] and first.found.unknown == 1
    assert list(first.models) == ["good (first)"] and list(second.models) == ["good (second)"]
    of_good = first.models["good (first)"]
    count, judges, people = of_good.items, of_good.judge.value, of_good.people.value
    assert count == first.found.items and judges - people == pytest.approx(first.found.bias)
    assert gather([]).people == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds neither metrics.json nor preferences.json"),
        ({"preferences.json": "{"}, "preferences.json: not valid JSON"),
        ({"preferences.json": json.dumps({"format": "aloe-preferences"})}, "preferences.json: version"),
        ({"metrics.json": json.dumps({"models": {}})}, "results of version 1"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, content, message):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(AloeError, match=message):
        gather([tmp_path])


def test_significance_needs_the_corrected_p(clear):
    found = clear.pairs[0].by["average"]
    assert significant(found)
    assert not significant(found.model_copy(update={"p_holm": 0.06}))
    assert not significant(found.model_copy(update={"p_holm": None}))
