"""The report's section on RL: what the training runs of the models under test recorded."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from aloe_jax.report.gathering import gather
from aloe_jax.report.learning import Learning, learned
from aloe_jax.report.learning_charts import TITLES, learning_charts
from aloe_jax.report.page import render
from aloe_jax.report.payload import overview
from aloe_jax.report.pictures import drawn
from tests.report import sample


@pytest.fixture
def report(trained):
    return gather([trained])


def test_models_with_records_of_rl_are_found_and_others_are_not(report, tmp_path):
    first, second = report.learning
    assert (first.entry, second.entry) == (1, 2) and (first.steps, second.steps) == (12, 6)
    assert first.simulated == ("user",) and second.simulated == ()
    assert first.first_and_last("validation", "reward") == (2.2, 2.6)
    assert first.ends == 5 and second.ends == 3
    assert first.change("entropy") == pytest.approx(
        (sum(3 / step for step in range(1, 6)) / 5, sum(3 / step for step in range(8, 13)) / 5)
    )
    assert first.by_turn(last=False) == pytest.approx([2.31, 2.32, 2.33])
    assert first.by_turn(last=True) == pytest.approx([3.01, 3.02, 3.03])
    (tmp_path / "metrics.jsonl").write_text('[1]\n{"step": 1, "kind": "train", "loss": 1.0}\n{"step": NaN}\n')
    both = {"path": str(tmp_path)}, {"path": "gs://bucket/run"}, {"scripted": "generic"}, {"path": str(tmp_path / "x")}
    assert learned(both) == ()
    again = {"path": str(sample.write_rl(tmp_path / "rl"))}
    assert [one.entry for one in learned([{}, again, again])] == [1]


def test_long_curves_are_means_over_steps():
    train = tuple({"step": float(step), "reward": float(step)} for step in range(1, 51))
    curve = Learning(0, (), train, (), ()).curve("train", "reward")
    assert len(curve) == 17 and curve[0] == (3.0, 2.0) and curve[-1] == (50.0, 49.5)


def test_charts_and_their_read_outs(report):
    charts = learning_charts(report)
    assert list(charts) == list(TITLES)
    heldout, turns, watch = (charts[f"learning-{name}"] for name in ("heldout", "turns", "watch"))
    assert heldout.steps == [4, 8, 12] and [line.entry for line in heldout.lines] == [1, 2]
    assert heldout.lines[1].values == [1.2, None, None]
    assert [line.label for line in turns.lines] == [
        "rl, last 5 steps", "rl, first 5 steps", "other <b>, last 3 steps", "other <b>, first 3 steps",
    ]  # fmt: skip
    assert [line.label for line in watch.lines] == ["rl, training judge", "rl, watch judge"]
    looks = {(line.look.colour, line.look.dash, line.look.marker) for line in turns.lines}
    assert len(looks) == 4 and turns.lines[0].look.colour == turns.lines[1].look.colour
    found = overview(report, charts)["charts"]["learning-watch"]
    assert found["steps"] == [4, 8, 12] and found["names"][1] == ["rl, watch judge", "c1"]


def test_lines_over_steps_go_on_where_another_model_has_a_step_more(report):
    charts = learning_charts(report)
    svg = drawn(charts, TITLES)["learning-equal"]
    root = ElementTree.fromstring(svg)
    curves = [len(curve.get("points").split()) for curve in root.iter("polyline")]
    assert curves == [12, 6]
    ticks = [text.text for text in root.findall("text") if text.get("text-anchor") == "middle"]
    assert ticks[0] == "1" and ticks[-1] == "Step"
    places = [float(line.get("x1")) for line in root.findall("g[@class='column']/line")]
    gaps = [after - before for before, after in pairwise(places)]
    assert len(places) == 12 and max(gaps) == pytest.approx(min(gaps), abs=0.2)


def test_the_section_is_there_with_numbers_for_every_chart(report, one):
    text = render(report)
    section = re.search(r'<section id="learning".*?</section>', text, flags=re.S)
    assert section is not None and 'href="#learning"' in text
    charts = re.findall(r"<svg class=\"chart small\"", section[0])
    assert len(charts) == len(TITLES) == section[0].count("<summary>In numbers</summary>")
    assert "2.20 → 2.60" in section[0] and "other &lt;b&gt;" in section[0] and "reward hacking" in section[0]
    assert "Left and right arrow read the steps." in section[0] and "NaN" not in section[0]
    assert 'id="learning"' not in render(one)
