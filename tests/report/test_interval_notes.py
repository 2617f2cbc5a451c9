"""What the report says of its people, intervals and tests is what was computed."""

import json
from dataclasses import replace

import pytest

from aloe_jax.benchmark.results import inference_design
from aloe_jax.errors import AloeError
from aloe_jax.report import interval_notes
from aloe_jax.report.gathering import from_runs, gather
from aloe_jax.report.page import render
from aloe_jax.report.tables import latex, markdown
from tests.benchmark.test_case_design import product
from tests.report import sample
from tests.report.sample import hostile_results
from tests.report.test_page import words


def report_on(tmp_path, people, **more):
    spoken = [sample.talked(name, people, level, **more) for name, level in (("one", 2), ("two", 4))]
    sample.write_results(tmp_path, sample.results(spoken, provider="openai"))
    return gather([tmp_path])


def test_distinct_people_are_called_so(clear):
    said = words(render(clear))
    assert "20 people, each with a profile and a personality of their own, talk with every model" in said
    assert "studentised bootstrap over people" in said and "permutation test over people" in said
    assert "variance between" not in interval_notes.describe_intervals(clear) + interval_notes.describe_tests(clear)


def test_crossed_people_are_called_so_and_tested_so(tmp_path):
    report = report_on(tmp_path, product(6, 5))
    assert report.runs[0].results.design.kind == "crossed"
    for text in (words(render(report)), markdown(report), latex(report)):
        assert "with the variance between profiles and personalities" in text
        assert "permutation" not in text.replace("permutations, seed", "") and "bootstrap over" not in text
    said = words(render(report))
    assert "30 people, every combination of 6 profiles and 5 personalities, talk with every model" in said
    assert "personality of their own" not in said and "paired Student's t test" in said


def test_parts_of_which_there_are_too_few_are_named(tmp_path):
    report = report_on(tmp_path, product(6, 2))
    assert interval_notes.fixed_parts_note(report) == "The numbers hold for the 2 personalities alone."
    assert interval_notes.fixed_parts_note(report) in markdown(report) and interval_notes.fixed_parts_note(
        report
    ) in words(render(report))


def test_results_from_before_say_that_their_intervals_are_too_narrow(tmp_path):
    report = report_on(tmp_path, product(6, 5))
    (run,) = report.runs
    old = from_runs([replace(run, results=run.results.model_copy(update={"design": None}))])
    assert [pair.kind for pair in old.pairs] == [None] and inference_design(old.runs[0].results) is None
    assert inference_design(run.results) == "crossed"
    assert "too narrow; aloe evaluate --rescore OUTPUT computes them anew" in markdown(old)
    assert "cases taken for independent" in words(render(old))


def as_stored_before(run):
    """The same results as a version wrote them that knew neither design nor cells nor bounds."""
    results = run.results
    models = {name: one.model_copy(update={"bounds": {}}) for name, one in results.models.items()}
    for name, one in models.items():
        ends = {key: getattr(one, key).model_copy(update={"low": 0.25, "high": 0.75}) for key in ("n_ir", "r2")}
        models[name] = one.model_copy(update=ends)
    found = [one.model_copy(update={"cells": None, "bounds": None}) for one in results.differences]
    return replace(run, results=results.model_copy(update={"design": None, "models": models, "differences": found}))


def test_results_from_before_of_distinct_people_are_described_as_they_were_computed(tmp_path):
    report = report_on(tmp_path, sample.strangers(8), gap=(3, 2))
    old = from_runs([as_stored_before(run) for run in report.runs])
    page, text = words(render(old)), markdown(old)
    hidden = "Intervals of N-IR and R² are not shown: an earlier version gave them where they do not cover the truth"
    for shown in (page, text, latex(old).replace("R\\textsuperscript{2}", "R²")):
        assert hidden in shown and "IR is less than 3 times" not in shown
        assert "over the same people, every model by all ratings that it has" in shown or shown.startswith("%")
        assert "turns that both" not in shown and "Student's t for fewer" not in shown
    assert all(entry.numbers.n_ir.low is None and entry.numbers.n_ir.value is not None for entry in old.entries)
    assert "They have an interval only where" not in page and "0.250 to 0.750" not in page
    assert "the range beside" not in page and "Where ratings are missing, the difference is unbiased only" in page
    assert "a rating is the mean of the others as they are" in page and "mean leniency" not in page
    new = words(render(report))
    assert "They have an interval only where IR is at least 3 times" in new and "mean leniency" in new
    assert "the range beside says" in new and "same people and turns that both" in new


def test_a_report_on_old_and_new_runs_says_which_is_which(tmp_path):
    report_on(tmp_path / "a", sample.strangers(8))
    report_on(tmp_path / "b", sample.strangers(8))
    first, second = gather([tmp_path / "a", tmp_path / "b"]).runs
    page = words(render(from_runs([as_stored_before(first), second])))
    assert "Intervals of N-IR and R² of a are not shown" in page and "They have an interval only where" in page
    assert "vote is missing in a, a rating is the mean" in page and "missing in the other runs, the other" in page


@pytest.mark.parametrize(
    ("people", "before", "test"),
    [
        (sample.strangers(6), False, "p by a sign test, corrected"),
        (product(6, 5), False, "p by Student's t with the variance between profiles and personalities, corrected"),
        (product(6, 5), True, "p by a sign test over cases taken for independent, though they share profiles"),
    ],
)
def test_the_test_of_dialogues_side_by_side_is_the_one_that_was_made(tmp_path, people, before, test):
    report = report_on(tmp_path, people)
    (run,) = report.runs
    side = hostile_results().side_by_side[0].model_copy(update={"first": "one", "second": "two", "p_holm": 0.4})
    run = replace(run, results=run.results.model_copy(update={"side_by_side": [side]}))
    assert test in words(render(from_runs([as_stored_before(run) if before else run])))


def test_a_number_without_an_interval_has_its_reason(tmp_path):
    report = report_on(tmp_path, product(6, 4))
    assert all(entry.numbers.n_ir.low is None for entry in report.entries)
    reason = "No interval of N-IR and R² for one and two: IR is less than 3 times the half width"
    assert reason in markdown(report) and reason in words(render(report))


def test_what_missing_ratings_could_change_is_said(tmp_path):
    report = report_on(tmp_path, product(6, 4), gap=(3, 2))
    (pair,) = report.pairs
    assert pair.by["average"].cells == 24 * sample.TURNS - 1
    said = words(render(report))
    assert "missing ratings:" in said and "whatever the missing ratings are: Average AL" in said
    assert "whatever the missing ratings are" in markdown(report)
    whole = report_on(tmp_path / "whole", product(6, 4))
    assert "whatever the missing ratings" not in words(render(whole)) + markdown(whole)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"design": {"kind": "distinct", "people": 24, "profiles": 6, "personalities": 4}}, "design: is distinct"),
        ({"models": {"two": {"bounds": {"ir": {"least": 1.0, "most": 0.0}}}}}, "bounds: one has its least above"),
    ],
)
def test_a_changed_file_is_refused(tmp_path, changed, message):
    report_on(tmp_path, product(6, 4))
    record = json.loads((tmp_path / "metrics.json").read_text())
    record["models"]["two"] |= changed.pop("models", {}).get("two", {})
    (tmp_path / "metrics.json").write_text(json.dumps(record | changed))
    with pytest.raises(AloeError, match=message):
        gather([tmp_path])


def test_runs_without_a_person_in_common_are_not_said_to_be_compared(tmp_path):
    people = sample.strangers(12)
    report_on(tmp_path / "a", people[:6])
    report_on(tmp_path / "b", people[6:])
    report = from_runs([one_model(run, name) for run, name in zip(both_of(tmp_path), ("one", "two"), strict=True)])
    assert not report.pairs and len(report.models) == 2
    for shown in (words(render(report)), markdown(report), latex(report)):
        assert "Bold" not in shown and "where , corrected" not in shown and "puts it above" not in shown
    said = words(render(report))
    assert "No two models talked with the same person, so that no test compares them." in said
    assert "talk with the models" in said


def both_of(path):
    return gather([path / "a", path / "b"]).runs


def one_model(run, name):
    results = run.results
    kept = {"models": {name: results.models[name]}, "cases": {name: results.cases[name]}, "differences": []}
    return replace(run, results=results.model_copy(update=kept))


def test_one_person_has_no_intervals_and_one_self(tmp_path):
    report = report_on(tmp_path, sample.strangers(1))
    said = words(render(report))
    assert "One person talks with every model for 4 turns and gives themselves away" in said
    for shown in (said, markdown(report), latex(report)):
        assert "studentised" not in shown and ("of a single person" in shown)


def test_what_a_run_takes_as_given_is_said_though_another_run_has_more(tmp_path):
    report_on(tmp_path / "a", product(2, 6))
    report_on(tmp_path / "b", sample.strangers(12))
    report = gather([tmp_path / "a", tmp_path / "b"])
    assert interval_notes.fixed_parts_note(report) == "The numbers of a hold for the 2 profiles alone."


def test_undefined_differences_are_no_tests(tmp_path):
    people = sample.strangers(6)
    spoken = [sample.talked(name, people, level, turns=1) for name, level in (("one", 2), ("two", 4))]
    sample.write_results(tmp_path, sample.results(spoken, provider="openai", turns=1))
    assert "correction for all 2 tests of this section" in words(render(gather([tmp_path])))
