"""Controls in the report: labelled, drawn dashed in their model's colour, compared with it alone, never the best."""

import json
import re
from dataclasses import replace

import pytest

from aloe_jax.benchmark.results import load_results
from aloe_jax.errors import AloeError
from aloe_jax.report.controls import control_readings
from aloe_jax.report.gathering import from_runs, gather
from aloe_jax.report.page import render
from aloe_jax.report.pictures import line_charts
from aloe_jax.report.summary_table import table
from aloe_jax.report.svg import line_chart, rating_frame
from aloe_jax.report.tables import latex, markdown
from tests.report import sample
from tests.report.test_page import words

MODELS = {
    "good": {"path": "x"},
    "weak": {"path": "y"},
    "low*": {"scripted": "generic"},
    "good-persona": {"path": "x", "sees": "persona"},
    "good-last_message": {"path": "x", "sees": "last_message"},
    "orphan": {"path": "z", "sees": "persona"},
}
LEVELS = {"good": (2.6, 0.5), "weak": (1.4, 0.0), "low*": (1.2, 0.0), "good-persona": (4.6, 0.0), "orphan": (4.9, 0.0)}


def write(directory, rise=0.0, cases=20, role="openai"):
    """A run whose control without history rises by `rise` a turn."""
    people = sample.personas(cases)
    levels = LEVELS | {"good-last_message": (2.6, rise)}
    spoken = [sample.talked(name, people, levels[name][0], rise=levels[name][1]) for name in MODELS]
    results = sample.results(spoken, provider=role, models=MODELS, permutations=4000)
    sample.write_results(directory, results)
    return directory


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return gather([write(tmp_path_factory.mktemp("controls"))])


def test_no_control_is_a_model_under_test(report):
    """Though two of them are rated highest."""
    assert [entry.label for entry in report.models] == ["good", "weak"]
    assert report.best("average").label == "good"
    assert {(pair.first, pair.second) for pair in report.pairs} == {("good", "weak")}
    assert report.stands_out(report.best("average"), "average")
    bold = [line for line in markdown(report).split("\n\n")[0].splitlines() if "**" in line]
    assert len(bold) == 1 and bold[0].startswith("| good ")


def test_they_are_labelled_wherever_numbers_are(report):
    text, tex, page = markdown(report), latex(report), render(report)
    assert "good-persona (with the persona in its prompt)" in text.replace("\\_", "_")
    assert "good-last_message (last message only)" in text.replace("\\_", "_")
    assert "Controls, not under test: " in text and r"\textit{good-persona}" in tex
    assert page.count('<span class="tag">last message only</span>') >= 2
    assert 'href="#controls"' in page and '<section id="controls"' in page
    note = str(table(report).caption)
    assert "* good-persona: with the persona in its prompt" in note and "good: IR over its last message only" in note


def test_al_is_said_to_be_comparable_within_a_judge_only(report):
    said = "values are comparable between models that the same judge rated"
    assert said in render(report) and said in markdown(report) and said in latex(report)


def test_they_are_dashed_in_the_colour_of_their_model_without_a_band(report):
    looks = {entry.label: entry.look for entry in report.entries}
    own, controls = looks["good"], [looks["good-persona"], looks["good-last_message"]]
    assert {look.colour for look in controls} == {own.colour} and {look.style for look in controls} == {own.style}
    assert len({look.dash for look in (own, *controls)}) == 3 and all(look.dash for look in controls)
    assert looks["orphan"].style == "ref"  # its model is not in the run
    chart = line_chart(line_charts(report)["al"].lines, rating_frame(sample.TURNS, len(report.entries)), "t")
    banded = {int(number) for number in re.findall(r'class="e band [^"]*" data-entry="(\d+)"', chart)}
    assert {report.entries[number].label for number in banded} == {"good", "weak"}


def test_a_rise_is_said_to_come_from_history_only_where_the_test_says_so(report, tmp_path):
    readings = {one.control.label: one for one in control_readings(report)}
    assert set(readings) == {"good-persona", "good-last_message"}
    history, oracle = readings["good-last_message"].sentence(), readings["good-persona"].sentence()
    assert re.search(r"AL changes by \+0\.\d+ a turn, and by .* where it sees the last message only", history)
    assert "So much of the rise is lost without the history." in history
    assert re.search(r"p (< 0\.001|= 0\.0[0-4])", history)
    assert "So much would knowing the person add." in oracle
    alike = gather([write(tmp_path / "alike", rise=0.5)])
    (sentence,) = [one.sentence() for one in control_readings(alike) if one.control.label == "good-last_message"]
    assert "The test does not show that the rise comes from the history." in sentence
    assert "its model, seeing the history, is not in this run" in render(report)  # of the orphan


def test_a_persona_that_does_not_help_is_no_upper_reference(tmp_path, monkeypatch):
    monkeypatch.setitem(LEVELS, "good-persona", (1.1, 0.0))
    readings = control_readings(gather([write(tmp_path / "lower")]))
    (sentence,) = [one.sentence() for one in readings if one.control.label == "good-persona"]
    assert "this control is no upper reference for it" in sentence


def test_two_runs_keep_their_controls_apart(tmp_path):
    both = gather([write(tmp_path / "first"), write(tmp_path / "second", rise=0.5)])
    readings = control_readings(both)
    assert [one.model.run == one.control.run for one in readings] == [True] * 4
    assert len({(one.model.run, one.control.label) for one in readings}) == 4
    assert "good-persona" not in {name for pair in both.pairs for name in (pair.first, pair.second)}
    render(both)


def test_results_without_controls_are_read_as_before(tmp_path):
    """Those that an earlier version wrote have none of the new fields."""
    path = write(tmp_path / "old") / "metrics.json"
    record = json.loads(path.read_text())
    names = [name for name, one in record["models"].items() if one["sees"] == "history"]
    del record["controls"], record["same_family"]
    record["models"] = {name: record["models"][name] for name in names}
    for one in record["models"].values():
        del one["sees"], one["control_of"]
    path.write_text(json.dumps(record))
    lines = (tmp_path / "old/transcripts.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["model"] in names]
    (tmp_path / "old/transcripts.jsonl").write_text("".join(f"{line}\n" for line in kept))
    assert load_results(tmp_path / "old").controls == []
    page = render(gather([tmp_path / "old"]))
    assert 'id="controls"' not in page and 'href="#controls"' not in page


def test_results_that_name_a_control_of_nobody_are_refused(tmp_path):
    path = write(tmp_path / "odd") / "metrics.json"
    path.write_text(path.read_text().replace('"control_of": "good"', '"control_of": "nobody"'))
    with pytest.raises(AloeError, match=r"models\.good-persona\.control_of: there is no model nobody"):
        gather([tmp_path / "odd"])


def test_a_judge_of_the_family_is_named_beside_the_judges(tmp_path):
    path = write(tmp_path / "same") / "metrics.json"
    record = json.loads(path.read_text())
    assert record["same_family"] == [
        "the judge is of the same family as the users and the reference lines (m-1): models rate text from their own "
        "family higher (self-preference bias) and share its blind spots; name a judge of another "
        "family (roles.judge, or several in judging.judges)"
    ]
    page = render(gather([tmp_path / "same"]))
    assert "The judge is of the same family as the users" in page
    assert "of the same family" not in render(gather([write(tmp_path / "scripted", role="scripted")]))


def read_history(report, own, other, difference, p=0.01):
    """What is said where a model's IR is `own` and that of its control without history `other`."""
    (reading,) = [one for one in control_readings(report) if one.control.label == "good-last_message"]

    def moved(entry, ir):
        estimate = entry.numbers.ir.model_copy(update={"value": ir})
        return replace(entry, numbers=entry.numbers.model_copy(update={"ir": estimate}))

    found = reading.by["ir"].model_copy(update={"value": difference, "p_holm": p})
    model, control = moved(reading.model, own), moved(reading.control, other)
    return replace(reading, model=model, control=control, by={**reading.by, "ir": found}).sentence()


def test_the_verdict_follows_the_sign_of_the_models_own_ir(report):
    assert read_history(report, 0.3, 0.1, 0.2).endswith("So much of the rise is lost without the history.")
    assert read_history(report, 0.3, -0.1, 0.4).endswith("AL rises with the history only.")
    assert read_history(report, -0.01, -0.05, 0.04).endswith(
        "does not rise with the history, but falls more without it."
    )
    assert read_history(report, -0.05, -0.01, -0.04).endswith("AL falls more with the history than without it.")
    assert read_history(report, -0.05, 0.1, -0.15).endswith("AL rises without the history only.")
    assert read_history(report, 0.05, 0.1, -0.05).endswith("AL rises less with the history than without it.")
    assert "does not rise, and the test does not show" in read_history(report, -0.05, 0.1, -0.15, p=0.4)
    assert "does not show that the rise comes" in read_history(report, 0.2, 0.1, 0.1, p=0.4)
    assert read_history(report, None, None, None, p=None).endswith("their difference is not defined.")


def test_what_is_not_significant_is_no_evidence_of_nothing(report):
    (reading,) = [one for one in control_readings(report) if one.control.label == "good-persona"]
    found = reading.by["average"].model_copy(update={"p_holm": 0.5})
    sentence = replace(reading, by={**reading.by, "average": found}).sentence()
    assert sentence.endswith("The test does not show a distance from knowing the person.")


def test_tests_with_controls_are_counted_as_they_were_corrected(report):
    assert "for 6 tests with controls" in words(render(report))
    (run,) = report.runs
    first, *others = run.results.controls
    controls = [first.model_copy(update={"p": None, "p_holm": None}), *others]
    second = replace(run, name="second", results=run.results.model_copy(update={"controls": controls}))
    said = words(render(from_runs([replace(run, name="first"), second])))
    assert "within each run, for 6 tests in first, 5 tests in second with controls" in said
