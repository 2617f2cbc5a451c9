import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from aloe_jax.offline_page import as_script_data
from aloe_jax.report import payload
from aloe_jax.report.gathering import Run, from_runs, gather
from aloe_jax.report.page import heat, render, write_page
from tests.report import sample
from tests.report.sample import HOSTILE


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.outside, self.texts, self.ids = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "script":
            self.scripts.append("")
        for name, value in attributes:
            if name in ("src", "srcset", "action", "data") or (name == "href" and not value.startswith("#")):
                self.outside.append((tag, name, value))
            if name == "id":
                self.ids.append(value)
            assert not name.startswith("on") and name != "style", (tag, name)

    def handle_data(self, data):
        if self.lasttag == "script" and self.scripts:
            self.scripts[-1] += data
        elif self.lasttag != "style":
            self.texts.append(data)


@pytest.fixture(scope="module")
def text(both):
    return render(both)


def words(text):
    return " ".join(" ".join(Page(text).texts).split())


def test_the_page_stands_alone_and_survives_hostile_texts(text, both):
    page = Page(text)
    assert page.outside == [] and not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", text)
    assert "default-src 'none'" in text and "unsafe" not in text
    assert len(page.scripts) == 2 + len(both.personas)  # overview, a case each, the code
    assert "img" not in page.tags and "window.hit" not in page.scripts[-1]
    assert len(page.ids) == len(set(page.ids))
    person = json.loads(page.scripts[6])
    assert person["profile"] == [part.strip() for part in f"{HOSTILE} He loves tags.".split("\u2028")]
    assert person["columns"]["1"]["turns"][0]["reply"] == HOSTILE


def test_the_same_report_gives_the_same_bytes(text, both, tmp_path):
    assert render(both) == text
    size = write_page(both, tmp_path / "new" / "report.html")
    assert (tmp_path / "new/report.html").stat().st_size == size
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


def test_what_is_simulated_stands_at_the_top_and_at_every_number(text, one, clear):
    said = words(text)
    assert "Played by a script, not by people or by language models: in first the users, the judges" in said
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", text)
    unmarked = [re.sub("<.*?>", "", heading).strip() for heading in headings if "Partly simulated" not in heading]
    assert unmarked == ["Held-out preferences", "How to read the numbers"]
    assert words(render(one)).count("Partly simulated") == 0 and "Here the users" in words(render(one))
    assert "imulated" not in re.sub(r"<script>.*?</script>|<style>.*?</style>", "", render(clear), flags=re.S).replace(
        "where the people are simulated", ""
    )


def test_below_full_coverage_the_headline_is_marked(one, clear):
    said = words(render(one))
    assert "Incomplete. The numbers of good leave out what is missing" in said
    assert "4 replies of 24 without a rating" in said and "the model was silent" in said
    assert "Incomplete: replies or ratings are missing." in said
    assert "ncomplete" not in words(render(clear))


def test_the_headline_says_what_the_corrected_test_says(undecided, clear):
    assert "Highest average alignment level: strong , 4." in words(render(clear))
    assert "places it above every other model" in words(render(clear))
    assert "does not place it above a<b> & $c_1$." in words(render(undecided))


def test_everything_asked_for_is_there(text):
    said = words(text)
    for wanted in (
        "These runs were not made alike", "correction for all 19 tests", "Side by side", "Krippendorff",
        "✗ not passed", "✓ passed", "Agreement with people", "anna and ben", "Average AL by judge, first",
        "Lets out an unrevealed one", "Reward accuracy by turn", "Distinct", "Replies of known quality",
        "By personality: 3 groups", "one vote a reply",
    ):  # fmt: skip
        assert wanted in said, wanted


def test_preferences_alone_and_without_a_reference(tmp_path):
    sample.write_preferences(tmp_path / "p", reference=None)
    text = render(gather([tmp_path / "p"]))
    assert "by log-probabilities alone" in words(text) and "Reward accuracy by turn" not in words(text)
    assert "Transcripts" not in words(text) and Page(text).scripts


def test_nothing_undefined_is_written_as_a_number(text, runs):
    bare = re.sub(r"<script.*?</script>|<style.*?</style>", "", text, flags=re.S)
    assert not re.search(r"\b(nan|None|null|Undefined|inf)\b", bare)
    sample.write_results(
        runs / "single", sample.results([sample.talked("alone", sample.personas(1), 3, turns=1)], turns=1)
    )
    bare = re.sub(r"<script.*?</script>|<style.*?</style>", "", render(gather([runs / "single"])), flags=re.S)
    assert not re.search(r"\b(nan|None|null|Undefined|inf)\b", bare)


def test_a_model_that_never_answered(tmp_path):
    spoken = sample.talked("mute", sample.personas(2), 3, turns=1, gap=(0, 0))
    for dialogue in spoken.dialogues:
        dialogue.exchanges.clear()
        dialogue.stopped = "turn 1: gone"
    spoken.verdicts[:] = [[], []]
    sample.write_results(tmp_path, sample.results([spoken], turns=3))
    said = words(render(gather([tmp_path])))
    assert "6 replies of 6 without a rating" in said and "gone (2 times)" in said


# ---------------------------------------------------------------- the data of the script


def test_facts_are_numbers_of_sentences_and_told_when_they_are_new(both):
    people = payload.cases(both)
    case = people[0]
    entry = both.entries[4]  # of a run with real users
    stored = entry.cases[next(iter(both.personas))]
    told = [*case["profile"], *case["personality"]]
    known = []
    for turn, shown in zip(stored.turns, case["columns"][4]["turns"], strict=True):
        known += [told[fact] for fact in shown.get("new", [])]
        assert sorted(known) == sorted(turn.revealed)
        assert [told[fact] for fact in shown.get("used", [])] == turn.mentioned
    assert known
    changed = stored.turns[0].model_copy(update={"revealed": ["in no sentence"]})
    entries = list(both.entries)
    key = next(iter(both.personas))
    cases = {**entry.cases, key: stored.model_copy(update={"turns": [changed]})}
    entries[4] = replace(entry, cases=cases)
    again = payload.cases(replace(both, entries=tuple(entries)))[0]
    assert again["columns"][4]["turns"][0]["new"] == ["in no sentence"]


def test_ratings_votes_and_people_stand_beside_the_replies(both):
    (turn, *_) = payload.cases(both)[0]["columns"][2]["turns"]
    assert turn["judges"] == ["strict", "kind"] and len(turn["votes"]) == 2
    assert turn["votes"][0][2] == "strict has a reason"
    assert set(turn["people"]) == {"anna", "ben"}
    overview = payload.overview(both, {})
    assert overview["entries"][0]["scripted"] == ["user", "strict", "kind"]
    assert overview["entries"][3]["scripted"] == []
    assert overview["cases"][5]["means"][3] is None  # somebody of the first run alone


def test_embedded_json_cannot_end_its_element():
    text = as_script_data([HOSTILE, "\u2029", 1.5, None])
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == [HOSTILE, "\u2029", 1.5, None]
    with pytest.raises(ValueError, match="JSON"):
        as_script_data(float("nan"))


def test_heat_has_a_class_for_every_rating():
    assert [heat(value) for value in (1.0, 3.0, 5.0)] == ["h0", "h8", "h16"] and heat(None) == ""


def test_people_who_share_nothing_are_listed_once():
    """By profile and by personality the same rows would stand twice, and no row would be of several people."""

    def rows(people):
        run = Run("run", sample.results([sample.talked("good", people, 3.0)]))
        section = render(from_runs([run])).split('<section id="people"')[1].split("</section>")[0]
        return section.count('<th scope="row"'), "Nobody shares a profile or a personality" in section

    assert rows(sample.strangers(8)) == (8, True)
    assert rows(sample.personas(8)) == (4 + 2, False)
