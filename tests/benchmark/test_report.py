import itertools
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe_jax import config
from aloe_jax.benchmark.chart import _LABEL_GAP, Line, _spread, alignment_chart
from aloe_jax.benchmark.dialogue import Dialogue, Exchange, Reply
from aloe_jax.benchmark.judge import Verdict, Vote
from aloe_jax.benchmark.report import render, table, write_report
from aloe_jax.benchmark.scoring import Checks, Talked, score
from aloe_jax.conversation import Persona

HOSTILE = "</script><script>alert(1)</script><!-- & \u2028 \"'"


def talked(name, ratings):
    """Dialogues of hostile texts with these ratings (None = missing); a short row stopped early."""
    dialogues, verdicts = [], []
    for i, row in enumerate(ratings):
        persona = Persona(id=f"p{i}", profile=HOSTILE, personality="dry")
        stopped = None if len(row) == len(ratings[0]) else "turn 2: no message"
        dialogues.append(Dialogue(persona, [Exchange("hi", Reply(HOSTILE)) for _ in row], stopped))
        verdicts.append([Verdict((Vote("judge", 0, rating, "because"),)) for rating in row])
    return Talked(name, dialogues, verdicts)


@pytest.fixture
def evaluation():
    models = {"low": {"scripted": "generic"}, "a<b": {"path": "x"}, "second": {"path": "y"}}
    settings = config.Evaluate.model_validate(
        {
            "output": "o", "personas": "p", "models": models, "cases": 3, "turns": 3, "bootstrap": 20,
            "permutations": 20, "roles": {"provider": "scripted"},
        }
    )  # fmt: skip
    spoken = [
        talked("low", [[1, 1, 1], [1, 1, 1], [1, 1, 1]]),
        talked("a<b", [[1, None, 3], [2, None, 5], [2, None, 4]]),
        talked("second", [[3, 4, 5], [3, 3, 3], [2]]),
    ]
    return settings, score(settings, ["judge"], spoken, Checks()), spoken


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.outside = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "script":
            self.scripts.append("")
        self.outside += [(tag, name, value) for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        if self.scripts and self.lasttag == "script":
            self.scripts[-1] += data


def test_page_stands_alone_and_survives_hostile_texts(evaluation):
    text = render(*evaluation)
    page = Page(text)
    assert page.outside == [] and "url(" not in text and "@import" not in text
    assert len(page.scripts) == 2
    data = json.loads(page.scripts[0])
    assert data["cases"][0]["persona"]["profile"] == HOSTILE
    assert data["cases"][2]["columns"][2][0]["reply"] == HOSTILE
    assert [len(column) for column in data["cases"][2]["columns"]] == [3, 3, 1]
    assert '<th scope="row">a&lt;b' in text


def test_page_says_what_is_simulated(evaluation):
    assert "the users, the judge and the reference lines are played by a scripted simulation" in render(*evaluation)


def test_undefined_numbers_are_dashes_not_zeros(evaluation):
    text = render(*evaluation)
    low = re.search(r'<tr class="ref">.*?</tr>', text, re.S).group()
    assert low.count("<td>\N{EN DASH}</td>") == 2  # N-IR and R² of a constant level
    assert "nan" not in re.sub(r"<script.*", "", text, flags=re.S).lower()


def test_files(evaluation, tmp_path):
    settings, scored, spoken = evaluation
    settings = settings.model_copy(update={"output": str(tmp_path)})
    write_report(settings, scored, spoken)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "report.html"]
    assert config.load(config.Evaluate, tmp_path / "config.yaml") == settings


def test_what_is_missing_is_marked(evaluation):
    text = render(*evaluation)
    assert text.count("(incomplete)") == 2 and "<b>incomplete</b>" in text


def test_table_fits_a_terminal(evaluation, capsys):
    from rich.console import Console

    Console(width=80).print(table(*evaluation))
    shown = capsys.readouterr().out
    assert "low *" in shown and "simulated: the users" in shown and "a<b → second" in shown
    assert "…\n" not in shown
    assert "† incomplete: replies or ratings are missing" in shown and "second †" in shown


def test_chart_is_sound_xml_and_breaks_where_a_turn_is_missing():
    al = np.array([2.0, 3.0, np.nan, 4.0])
    line = Line("x & y", al, al - 0.2, al + 0.2, False, 1)
    other = Line("z", al + 0.5, al + 0.4, al + 0.6, True, 0)
    root = ElementTree.fromstring(alignment_chart([line, other]))
    curves = root.findall("g[@class='curve c1']/polyline")
    assert [len(curve.get("points").split()) for curve in curves] == [2, 1]
    assert len(root.findall("g[@class='column']")) == 4
    heights = [float(point.split(",")[1]) for point in curves[0].get("points").split()]
    assert heights[1] < heights[0]  # a higher rating lies higher


@pytest.mark.parametrize("al", [[3.0], [np.nan, np.nan], [np.nan, 2.0], [1.0] * 40])
def test_chart_of_odd_lengths(al):
    level = np.array(al)
    nothing = np.full(len(al), np.nan)
    ElementTree.fromstring(alignment_chart([Line("a", level, nothing, nothing, False, 9)]))


@given(st.lists(st.floats(14, 382), max_size=12).map(sorted))
def test_labels_never_overlap_and_stay_in_the_chart(wanted):
    places = _spread(wanted)
    assert len(places) == len(wanted)
    assert all(b - a >= _LABEL_GAP - 1e-6 for a, b in itertools.pairwise(places))
    assert all(14 - 1e-6 <= place <= 382 + 1e-6 for place in places)
    if all(b - a >= _LABEL_GAP for a, b in itertools.pairwise(wanted)):
        assert places == pytest.approx(wanted)
