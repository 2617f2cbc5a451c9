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
    assert "of their own" not in said and "paired Student's t test" in said


def test_parts_of_which_there_are_too_few_are_named(tmp_path):
    report = report_on(tmp_path, product(6, 2))
    assert interval_notes.fixed_parts_note(report) == "The numbers hold for the 2 personalities alone."
    assert interval_notes.fixed_parts_note(report) in markdown(report) and interval_notes.fixed_parts_note(
        report
    ) in words(render(report))


def test_results_from_before_say_that_their_intervals_are_too_narrow(tmp_path):
    report = report_on(tmp_path, product(6, 4))
    (run,) = report.runs
    old = from_runs([replace(run, results=run.results.model_copy(update={"design": None}))])
    assert [pair.kind for pair in old.pairs] == [None] and inference_design(old.runs[0].results) is None
    assert inference_design(run.results) == "crossed"
    assert "too narrow; aloe evaluate --rescore OUTPUT computes them anew" in markdown(old)
    assert "cases taken for independent" in words(render(old))


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
