"""The rating page in a real browser where one is installed: everything by keyboard, nothing lost."""

import json
import re
from pathlib import Path

import pytest

from aloe_jax.benchmark.human_ratings import read_people, read_ratings
from aloe_jax.benchmark.rating.key import read_key
from aloe_jax.benchmark.rating.pages import write_pages
from tests.benchmark.rated_runs import HOSTILE, write_run

FORBIDDEN = """Object.defineProperty(window, "localStorage", {
    get() { throw new DOMException("access is denied", "SecurityError"); },
})"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    write_run(folder / "run")
    (page,), _ = write_pages([folder / "run"], folder / "rate.html", items=8, checks=2, seed=7)
    return page


@pytest.fixture
def visit(browser):
    """Opens a page in a browser that knows nothing of it; afterwards there must have been no error in it and nothing
    fetched but the file."""
    faults, opened = [], []

    def visit(path, name="Anna", script=None, clock=False, **context):
        own = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **context})
        opened.append(own)
        page = own.new_page()
        page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        allowed = (path.as_uri(), "blob:")
        page.on("request", lambda asked: None if asked.url.startswith(allowed) else faults.append(asked.url))
        if script:
            page.add_init_script(script)
        if clock:
            page.clock.install()
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        if name:
            page.fill("#name", name)
            page.keyboard.press("Enter")
        return page

    yield visit
    for context in opened:
        context.close()
    assert faults == []


def press(page, keys):
    for key in keys.split():
        page.keyboard.press({"<": "ArrowLeft", ">": "ArrowRight"}.get(key, key))


def place(page):
    return page.inner_text("#place")


def chosen(page):
    return page.locator("#ratings [aria-pressed=true] b").all_inner_texts()


def saved(page, target, key="d"):
    with page.expect_download() as waiting:
        page.keyboard.press(key)
    waiting.value.save_as(target)
    return waiting.value.suggested_filename


def items(path):
    return read_key(path.with_suffix(".key.json")).pages[0].items


def take(page, file):
    page.click("#name-button")
    with page.expect_file_chooser() as waiting:
        page.click("#open-file")
    waiting.value.set_files(file)
    page.wait_for_selector("#told:not(:empty)")
    told = page.inner_text("#told")
    page.keyboard.press("Escape")
    return told


def test_all_is_rated_by_keyboard_and_read_by_the_agreement(visit, path, tmp_path):
    page = visit(path, name="Anna Lind")
    shown = []
    for number in range(10):
        assert place(page) == f"Reply {number + 1} of 10" and chosen(page) == []
        shown.append(page.inner_text("#reply"))
        press(page, str(number % 5 + 1) if number != 3 else "0")
    assert page.inner_text("#count") == "10 of 10 rated" and page.is_visible("#finished")
    assert page.get_attribute("#bar", "aria-valuenow") == "10" and page.is_disabled("#open")
    assert saved(page, tmp_path / "a.json") == "ratings-anna-lind.json"
    found = read_ratings(tmp_path / "a.json")
    assert (found.rater, found.page) == ("Anna Lind", read_key(path.with_suffix(".key.json")).pages[0].page)
    assert [one.item for one in found.ratings] == items(path)
    assert [one.rating for one in found.ratings] == [1, 2, 3, None, 5, 1, 2, 3, 4, 5]
    assert all(one.seconds >= 0 and not one.undecided for one in found.ratings)
    assert len(set(shown)) == 10
    assert set(read_people([tmp_path / "a.json"])["Anna Lind"]) == set(items(path)) - {items(path)[3]}


def test_a_note_begun_before_a_closed_dialog_is_told_of_keeps_the_keys(visit, path):
    """Browsers tell that a dialog has closed when they find the time, which may be after the next keys."""
    page = visit(path)
    press(page, "n")
    page.keyboard.type("She has ")
    page.evaluate("document.getElementById('welcome').dispatchEvent(new Event('close'))")
    page.keyboard.type("5 cats")
    assert page.input_value("#note") == "She has 5 cats"
    assert place(page) == "Reply 1 of 10" and page.inner_text("#count") == "0 of 10 rated"


def test_reloaded_it_goes_on_where_it_was(visit, path, tmp_path):
    page = visit(path)
    press(page, "4 2 n")
    page.keyboard.type("Not 3 cats, she has 5.")
    press(page, "Escape > 1")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert not page.is_visible("#welcome") and page.inner_text("#name-button") == "Anna"
    assert place(page) == "Reply 5 of 10" and page.inner_text("#count") == "3 of 10 rated"
    press(page, "< < ")
    assert place(page) == "Reply 3 of 10" and chosen(page) == []
    assert page.input_value("#note") == "Not 3 cats, she has 5." and page.is_visible("#note")
    press(page, "<")
    assert chosen(page) == ["2"] and not page.is_visible("#note")
    press(page, "j")
    assert place(page) == "Reply 3 of 10"
    saved(page, tmp_path / "a.json")
    ratings = read_ratings(tmp_path / "a.json").ratings
    assert [(one.rating, one.undecided) for one in ratings] == [(4, False), (2, False), (None, True), (1, False)]
    assert ratings[2].note == "Not 3 cats, she has 5."


def test_undo_takes_back_one_answer_after_the_other(visit, path):
    page = visit(path)
    assert page.is_disabled("#undo")
    press(page, "4 5 < 1")  # the second rating is changed
    assert place(page) == "Reply 3 of 10"
    press(page, "u")
    assert place(page) == "Reply 2 of 10" and chosen(page) == ["5"]
    press(page, "n")
    page.keyboard.type("Hm.")
    press(page, "Escape u")
    assert page.input_value("#note") == "" and chosen(page) == ["5"]
    press(page, "u u")
    assert place(page) == "Reply 1 of 10" and chosen(page) == [] and page.inner_text("#count") == "0 of 10 rated"
    press(page, "u")
    assert "nothing to take back" in page.inner_text("#said")


def test_on_another_machine_a_file_is_taken_over(visit, path, tmp_path):
    page = visit(path)
    press(page, "4 2 0 n")
    page.keyboard.type("later")
    press(page, "Escape")
    saved(page, tmp_path / "a.json")
    other = visit(path, name=None)
    other.fill("#name", "Anna")
    press(other, "Enter > 3")  # the second reply, rated 2 in the file
    assert take(other, tmp_path / "a.json") == "2 ratings taken over. 1 rating given here stayed as it is."
    assert place(other) == "Reply 4 of 10" and other.input_value("#note") == "later" and chosen(other) == []
    assert other.inner_text("#count") == "3 of 10 rated"
    saved(other, tmp_path / "b.json")
    assert [one.rating for one in read_ratings(tmp_path / "b.json").ratings] == [4, 3, None, None]
    record = json.loads((tmp_path / "a.json").read_text())
    wrong = {
        "it is Ben's, and here Anna is rating": {**record, "rater": "Ben"},
        "it belongs to another page": {**record, "page": "0"},
        "it is of version 9": {**record, "version": 9},
        "it holds no ratings": {"format": "other"},
        "it does not say who rated": {**record, "rater": 3},
        "the file is no JSON": None,
    }
    for said, spoiled in wrong.items():
        (tmp_path / "bad.json").write_text("{" if spoiled is None else json.dumps(spoiled))
        assert said in take(other, tmp_path / "bad.json")
    odd = [
        {"item": items(path)[8], "rating": 7},
        {"item": "zz", "rating": 1},
        None,
        {"item": items(path)[9], "rating": 1},
    ]
    (tmp_path / "odd.json").write_text(json.dumps({**record, "ratings": odd}))
    assert take(other, tmp_path / "odd.json") == "1 rating taken over."


def test_a_browser_that_keeps_nothing_warns_and_serves_all_the_same(visit, path, tmp_path):
    page = visit(path, script=FORBIDDEN)
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    assert "Not saved" in page.inner_text("#kept")
    press(page, "4 2")
    saved(page, tmp_path / "a.json")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert asked == [] and page.inner_text("#count") == "0 of 10 rated"
    page.fill("#name", "Anna")
    press(page, "Enter 5")
    page.reload()
    assert asked == ["beforeunload"]
    assert [one.rating for one in read_ratings(tmp_path / "a.json").ratings] == [4, 2]
    kept = visit(path)
    assert kept.inner_text("#kept") == "Saved in this browser"
    kept.on("dialog", lambda dialog: asked.append(dialog.type))
    press(kept, "4")
    kept.reload()
    assert asked == ["beforeunload"]


def test_time_is_that_of_reading(visit, path, tmp_path):
    page = visit(path, clock=True)
    press(page, "ArrowUp")  # a sign of life, after which time counts
    page.clock.fast_forward(20_000)
    press(page, "4")
    page.clock.fast_forward(300_000)  # gone for a coffee
    press(page, "2 ?")
    page.clock.fast_forward(30_000)  # help is no reading
    press(page, "Escape ArrowUp")
    page.clock.fast_forward(5_000)
    press(page, "3 < < <")
    page.clock.fast_forward(7_000)
    press(page, ">")
    saved(page, tmp_path / "a.json")
    seconds = [one.seconds for one in read_ratings(tmp_path / "a.json").ratings]
    assert seconds == pytest.approx([27, 60, 5], abs=1.5)


def test_keys_do_what_they_say_and_nothing_else(visit, path):
    page = visit(path, name=None)
    press(page, "Escape 4")  # no rating without a name
    assert page.is_visible("#welcome") and page.inner_text("#count") == "0 of 10 rated"
    press(page, "Enter")
    assert page.is_visible("#welcome") and "Your name" in page.inner_text("#told")
    page.keyboard.type("Ünal 5")
    press(page, "Enter")
    press(page, "? 4")
    assert page.is_visible("#help") and page.inner_text("#count") == "0 of 10 rated"
    press(page, "Escape")
    page.keyboard.down("4")
    page.keyboard.down("4")  # held down
    page.keyboard.up("4")
    assert page.inner_text("#count") == "1 of 10 rated"
    press(page, "Control+3 6 x < < <")
    assert page.inner_text("#count") == "1 of 10 rated" and place(page) == "Reply 1 of 10"
    page.uncheck("#follow")
    press(page, "2")
    assert place(page) == "Reply 1 of 10" and chosen(page) == ["2"]
    assert page.inner_text("#said").startswith("Reply 1: 2.")
    page.locator("#ratings button").nth(4).focus()
    press(page, "Space")
    assert chosen(page) == ["5"]
    seen = set()
    for _ in range(40):
        press(page, "Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.dataset.rating || ''"))
    assert {"1", "5", "on", "pass", "note-button", "undo", "open", "follow", "download", "help-button"} <= seen
    # Another person at the same machine.
    page.click("#name-button")
    page.click("#over")
    assert page.inner_text("#over") == "Delete 1 rating of Ünal 5?"
    page.click("#over")
    assert page.inner_text("#count") == "0 of 10 rated" and page.input_value("#name") == ""


def test_another_tab_of_the_same_page_shows_the_same(visit, path):
    page = visit(path)
    other = page.context.new_page()
    other.goto(path.as_uri())
    press(other, "4")
    page.wait_for_selector("#count:text-is('1 of 10 rated')")
    press(page, "5")
    assert page.inner_text("#count") == "1 of 10 rated" and chosen(page) == []
    press(other, "<")
    other.wait_for_selector("#ratings [aria-pressed=true]:has-text('5')")


def test_hostile_texts_are_texts(visit, tmp_path):
    write_run(tmp_path / "run", cases=2, turns=2, hostile=True)
    (path,), _ = write_pages([tmp_path / "run"], tmp_path / "rate.html", items=12)
    page = visit(path, name=HOSTILE)
    for _ in range(12):
        assert page.text_content("#reply").endswith(HOSTILE)
        assert "<img src=x" in page.inner_text("#life") and "<b>&amp;" in page.inner_text("#character")
        press(page, "3")
    assert page.locator("img, #talk b, #who b, .top b").count() == 0
    assert page.evaluate("window.hit") is None
    name = saved(page, tmp_path / "a.json")
    assert re.fullmatch(r"ratings-[\w-]+\.json", name)
    assert read_ratings(tmp_path / "a.json").rater == HOSTILE


def test_light_dark_and_narrow(visit, path):
    def colour(page):
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page, dark = visit(path, color_scheme="light"), visit(path, color_scheme="dark")
    light = colour(page)
    assert light != colour(dark)
    for wanted in (colour(dark), light):
        press(page, "t")
        assert colour(page) == wanted
    page = visit(path, viewport={"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("#reply").bounding_box()["y"] < 700
    assert not page.is_visible("#life")
    page.click("#fold")
    assert page.is_visible("#life")
    page.click("#ratings button >> nth=2")
    assert place(page) == "Reply 2 of 10" and not page.is_visible("#life")


def test_the_reply_is_in_sight_however_long_the_conversation(visit, tmp_path):
    write_run(tmp_path / "run", models=("m",), cases=3, turns=14)
    (path,), _ = write_pages([tmp_path / "run"], tmp_path / "rate.html", items=42)
    page = visit(path, viewport={"width": 1300, "height": 640})
    for _ in range(42):
        box, dock = page.locator("#rated").bounding_box(), page.locator(".dock").bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= dock["y"] + 1
        press(page, "n Escape 3")
    box, dock = page.locator("#rated").bounding_box(), page.locator(".dock").bounding_box()
    assert box["y"] + box["height"] <= dock["y"] + 1  # with the notice that all is done


def test_five_hundred_replies_stay_quick(visit, tmp_path):
    write_run(tmp_path / "run", models=("m", "n"), cases=26, turns=10)
    (path,), _ = write_pages([tmp_path / "run"], tmp_path / "rate.html", items=500)
    page = visit(path)
    spent = page.evaluate("""() => {
        const spent = [];
        for (let n = 0; n < 200; n += 1) {
            const start = performance.now();
            document.dispatchEvent(new KeyboardEvent("keydown", { key: String(1 + (n % 5)), bubbles: true }));
            document.getElementById("talk").offsetHeight;
            spent.push(performance.now() - start);
        }
        return spent.sort((a, b) => a - b);
    }""")
    assert page.inner_text("#count") == "200 of 500 rated"
    assert spent[100] < 50, (spent[100], spent[-1])


def test_colours_have_contrast():
    style = (Path(write_pages.__code__.co_filename).parent / "style.css").read_text()
    palettes = re.findall(r"((?:--[\w-]+: #[0-9a-f]{6};\s*)+)", style)
    assert len(palettes) == 3

    def light(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one, two):
        low, high = sorted((light(one), light(two)))
        return (high + 0.05) / (low + 0.05)

    for palette in palettes:
        named = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", palette))
        pairs = [(ink, back) for ink in ("ink", "soft") for back in ("page", "side", "card", "fill")]
        pairs += [("ink", "note"), ("ink", "wash"), ("accent", "wash"), ("on-accent", "accent"), ("warm", "page")]
        for ink, back in pairs:
            assert contrast(named[ink], named[back]) >= 4.5, (ink, back)  # WCAG 2.2, 1.4.3
