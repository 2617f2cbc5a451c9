"""Which replies are drawn, that pages are blind, and that the key knows what they do not say."""

import json
import re
from collections import Counter

import pytest
from click.testing import CliRunner

from aloe_jax.benchmark.human_ratings import item_id
from aloe_jax.benchmark.rating.key import read_key
from aloe_jax.benchmark.rating.pages import criteria, write_pages
from aloe_jax.benchmark.rating.sample import candidates, draw
from aloe_jax.benchmark.results import load_results
from aloe_jax.errors import AloeError
from aloe_jax.rate import main
from tests.benchmark.rated_runs import CASES, HOSTILE, JUDGES, MODELS, TURNS, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "nightrun"
    write_run(path)
    return path


def payload(path):
    return json.loads(re.search(r'id="data">([^<]*)<', path.read_text())[1])


def test_drawn_evenly_over_models_ratings_turns_and_personas(run):
    found = candidates({"run": load_results(run)})
    assert len(found) == len(MODELS) * CASES * TURNS
    sample = draw(found, pages=1, items=45, overlap=1.0, seed=3)
    (drawn,) = sample.pages
    assert len({one.item for one in drawn}) == 45
    assert set(Counter(one.cell[0] for one in drawn).values()) == {15}
    assert set(Counter(one.places[0].turn for one in drawn).values()) <= {8, 9, 10}
    assert max(Counter(one.persona.id for one in drawn).values()) <= 6  # 3.75 on average
    there = Counter(one.cell for one in found)
    for model in MODELS:
        taken = Counter({rating: 0 for name, rating in there if name == model})
        taken.update(one.cell[1] for one in drawn if one.cell[0] == model)
        scarce = {rating for rating in taken if taken[rating] == there[model, rating]}
        others = [count for rating, count in taken.items() if rating not in scarce]
        assert max(others) - min(others) <= 1, (model, taken, there)
    # As they fall, ratings are far from even: a control for the test itself.
    assert max(there.values()) > 3 * min(there.values())


def test_weights_stand_for_all_replies_of_the_runs(run):
    found = candidates({"run": load_results(run)})
    sample = draw(found, pages=2, items=30, overlap=0.5, seed=3)
    assert len(sample.weights) == 45
    there, cells = Counter(one.cell for one in found), {one.item: one.cell for part in sample.pages for one in part}
    drawn = Counter()
    for item, weight in sample.weights.items():
        drawn[cells[item]] += weight
    assert all(drawn[cell] == pytest.approx(there[cell]) for cell in drawn)
    assert sum(drawn.values()) == pytest.approx(len(found))  # no cell without a reply


def test_overlap_is_shared_by_all_pages_and_the_rest_by_none(run):
    found = candidates({"run": load_results(run)})
    pages = [{one.item for one in page} for page in draw(found, pages=3, items=40, overlap=0.3, seed=1).pages]
    assert [len(page) for page in pages] == [40] * 3
    common = pages[0] & pages[1] & pages[2]
    assert len(common) == 12
    assert pages[0] & pages[1] == pages[1] & pages[2] == pages[0] & pages[2] == common
    again = draw(found, pages=3, items=40, overlap=0.3, seed=1)
    assert [{one.item for one in page} for page in again.pages] == pages
    other = draw(found, pages=3, items=40, overlap=0.3, seed=2)
    assert [{one.item for one in page} for page in other.pages] != pages
    with pytest.raises(AloeError, match="have 180 rated replies that differ, and 300 are asked for"):
        draw(found, pages=3, items=100, overlap=0.0, seed=1)


def test_a_page_cannot_tell_models_or_ratings(run, tmp_path):
    pages, where = write_pages([run], tmp_path / "rate.html", items=30, raters=2, overlap=0.5, checks=4, seed=7)
    assert [path.name for path in pages] == ["rate-1.html", "rate-2.html"] and where.name == "rate.key.json"
    key = read_key(where)
    for path, page in zip(pages, key.pages, strict=True):
        text = path.read_text().lower()
        hidden = (*MODELS, *JUDGES, "secretreason", "hiddenid", "nightrun", "calibration", "informed", str(tmp_path))
        assert [word for word in hidden if word.lower() in text] == []
        data = payload(path)
        assert set(data) == {"page", "simulated", "criteria", "scale", "personas", "items"}
        assert {frozenset(one) for one in data["items"]} == {frozenset(("item", "persona", "path", "reply"))}
        assert {frozenset(one) for one in data["personas"]} == {frozenset(("profile", "personality"))}
        assert [one["item"] for one in data["items"]] == page.items and data["page"] == page.page
        assert len(page.items) == 34 and sum(item in key.checks for item in page.items) == 4
    common = set(key.pages[0].items) & set(key.pages[1].items)
    assert len(common) == 19
    first, second = ([item for item in page.items if item in common] for page in key.pages)
    assert first != second


def test_the_page_is_the_same_whatever_the_models_and_ratings_are(tmp_path):
    """All replies drawn: then nothing but names and ratings differs, and it must not show in a single byte."""
    write_run(tmp_path / "a", models=("one", "two"), cases=3, turns=2, seed=5)
    write_run(tmp_path / "b", models=("two", "three"), cases=3, turns=2, seed=5, rate=lambda m, c, t: 1 + (c + t) % 5)
    for name in "ab":
        write_pages([tmp_path / name], tmp_path / f"{name}.html", items=12, seed=1)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    keys = [read_key(tmp_path / f"{name}.key.json") for name in "ab"]
    assert keys[0].pages[0].items == keys[1].pages[0].items and keys[0].items != keys[1].items


def test_the_key_leads_back_to_the_run(run, tmp_path):
    _, where = write_pages([run], tmp_path / "rate.html", items=20)
    key, cases = read_key(where), load_results(run).cases
    assert set(key.models()) == set(MODELS) and key.judges() == list(JUDGES)
    for item, told in key.items.items():
        (place,) = told.places
        (found,) = [t for case in cases[place.model] for t in case.turns if t.item == item]
        assert place.rating == found.rating == pytest.approx(sum(place.judges.values()) / 2)
        assert place.judges == {vote.judge: vote.rating for vote in found.votes}


def test_a_reply_that_two_models_gave_is_shown_once(tmp_path):
    for name in "ab":  # the same seed: the same replies
        write_run(tmp_path / name, models=("same",), cases=3, turns=2)
    _, where = write_pages([tmp_path / "a", tmp_path / "b"], tmp_path / "rate.html", items=6)
    key = read_key(where)
    assert key.models() == ["a: same", "b: same"] and len(key.items) == 6
    assert {len(told.places) for told in key.items.values()} == {2}
    assert set(key.items) == set(key.pages[0].items)


def test_what_no_judge_rated_is_not_drawn(tmp_path):
    write_run(tmp_path / "a", models=("m",), cases=3, turns=2, rate=lambda m, c, t: None if c == 1 else 3)
    with pytest.raises(AloeError, match="have 4 rated replies"):
        write_pages([tmp_path / "a"], tmp_path / "rate.html", items=5)
    write_pages([tmp_path / "a"], tmp_path / "rate.html", items=4)


def test_items_are_named_by_what_is_shown(run, tmp_path):
    (path,), _ = write_pages([run], tmp_path / "rate.html", items=5)
    personas = {" ".join(case.persona.profile.split()): case.persona for case in load_results(run).cases[MODELS[0]]}
    data = payload(path)
    for one in data["items"]:
        persona = personas[" ".join(data["personas"][one["persona"]]["profile"])]
        roles = ("user", "assistant")
        messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(one["path"])]
        assert one["item"] == item_id(persona, messages, one["reply"])


def test_people_are_asked_what_the_judge_is_asked(run, tmp_path):
    (path,), _ = write_pages([run], tmp_path / "rate.html", items=5)
    data = payload(path)
    assert [name for name, _ in data["criteria"]] == [
        "Fit to the personality", "Relevance to the profile", "Human-like", "Engaging", "Concise",
    ]  # fmt: skip
    assert len(data["scale"]) == 5 and data["scale"][4].startswith("suits this person in every respect")
    assert all(told.endswith(".") and "\n" not in told for _, told in criteria().asked)
    assert data["simulated"] == "Simulated: the people in these conversations come from a script."


def test_a_page_stands_alone_whatever_is_written_in_it(tmp_path):
    write_run(tmp_path / "a", cases=2, turns=2, hostile=True)
    (path,), _ = write_pages([tmp_path / "a"], tmp_path / "rate.html", items=12)
    text = path.read_text()
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']|@import|https?://", text.replace("src=x", ""))
    assert "default-src 'none'" in text and "<img" not in text and text.count("</script>") == 2
    assert payload(path)["items"][0]["reply"].endswith(HOSTILE)
    assert path.read_bytes() == write_pages([tmp_path / "a"], path, items=12)[0][0].read_bytes()


def test_the_key_of_pages_that_are_out_is_not_overwritten(run, tmp_path):
    write_pages([run], tmp_path / "rate.html", items=20, seed=1)
    before = (tmp_path / "rate.key.json").read_bytes(), (tmp_path / "rate.html").read_bytes()
    with pytest.raises(AloeError, match="is the key of other pages"):
        write_pages([run], tmp_path / "rate.html", items=20, seed=2)
    assert before == ((tmp_path / "rate.key.json").read_bytes(), (tmp_path / "rate.html").read_bytes())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["page", "nowhere"], "nowhere/metrics.json: cannot be read"),
        (["page", "RUN", "RUN"], "given twice"),
        (["page", "RUN", "--model", "emu"], "--model emu: not in these runs; they have zebramodel"),
        (["page", "RUN", "--items", "1000"], "lower --items"),
        (["page", "RUN", "--checks", "40", "--items", "5"], "there are 12 replies of known quality"),
        (["page", "RUN", "--output", "rate.txt"], "ends in .html"),
        (["agreement", "none.json", "--key", "KEY"], "none.json: cannot be read"),
        (["agreement", "KEY", "--key", "KEY"], "give a file that the rating page saved"),
        (["agreement", "none.json", "--key", "none.key.json"], "give the .key.json"),
        (["agreement", "none.json", "--key", "RUN/metrics.json"], "format"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    _, key = write_pages([run], tmp_path / "made.html", items=5)
    arguments = [one.replace("RUN", str(run)).replace("KEY", str(key)) for one in arguments]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1 and message in result.output
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1
