"""The report in a real browser, where one is installed."""

import pytest

from aloe_jax.report.gathering import gather
from aloe_jax.report.page import write_page
from tests.report.sample import HOSTILE


@pytest.fixture(scope="module")
def path(both, tmp_path_factory):
    target = tmp_path_factory.mktemp("page") / "report.html"
    write_page(both, target)
    return target


@pytest.fixture
def visit(browser):
    """Opens a page; afterwards there must have been no error in it and nothing fetched but the file."""
    faults, opened = [], []

    def visit(path, **context):
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **context})
        opened.append(page)
        page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda asked: None if asked.url == path.as_uri() else faults.append(asked.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        return page

    yield visit
    for page in opened:
        page.close()
    assert faults == []


def heads(page):
    return [text.split(" mean")[0] for text in page.locator("#dialogues .head").all_inner_texts()]


def case(page):
    return page.inner_text("#person")


def shown_turn(page):
    return page.inner_text("#turn-shown")


def test_models_cases_and_turns_are_switched(visit, path):
    page = visit(path)
    assert heads(page) == ["good (first)", "good (second)", "other"]  # at first the last three
    assert (case(page), shown_turn(page)) == ("p0", "4")
    page.click("[data-column='0']")
    assert heads(page) == ["low*", "good (first)", "good (second)", "other"]
    page.click("[data-column='4']")
    page.click("[data-column='2']")
    assert heads(page) == ["low*", "good (second)"]
    page.click("#next")
    assert case(page) == "p1"
    page.select_option("#case", "3")
    assert case(page) == "p3"
    page.click("[data-column='2']")
    # The dialogue that stopped says why, in its own column, beside the other's second turn.
    assert "turn 2: the model was silent" in page.inner_text("#dialogues .empty")
    page.click("#dialogues [data-at='2']")
    assert shown_turn(page) == "2" and page.input_value("#turn") == "2"
    assert page.get_attribute("#dialogues [data-at='2']", "aria-pressed") == "true"


def test_what_was_revealed_grows_with_the_turn(visit, path):
    page = visit(path)

    def known(kind="known"):
        return page.locator(f"#profile .fact.{kind}").all_inner_texts()

    full = known()
    page.click("#dialogues [data-at='1']")
    assert known() == [] and page.locator("#profile .by.later").count() == 2 * len(full)
    page.keyboard.press("j")
    assert shown_turn(page) == "2" and len(known()) == 1 and known("new") == known()
    assert known()[0] in page.inner_text("#dialogues [data-turn='2'] >> nth=1")
    page.keyboard.press("j")
    assert len(known()) == 2 and len(known("new")) == 1
    page.keyboard.press("k")
    assert len(known()) == 1
    page.click("[data-column='2']")
    assert page.locator("#profile .by.all").count() == len(full)  # both that are left learn it at the same turn


def test_ratings_votes_people_and_reasons_stand_beside_the_replies(visit, path):
    page = visit(path)
    first = page.locator("#dialogues [data-turn='1'] >> nth=0")
    assert "People: anna" in first.inner_text() and "User, simulated" in first.inner_text()
    assert "scripted judge" in first.locator(".rating").get_attribute("aria-label")
    other = page.locator("#dialogues [data-turn='1'] >> nth=2")
    assert "User\n" in other.inner_text() and "by the judge" in other.locator(".rating").get_attribute("aria-label")
    assert not page.is_visible("#dialogues .reasons >> nth=0")
    page.click("#reasons")
    strict, kind = first.locator(".reasons li").all_inner_texts()
    assert strict.endswith("strict has a reason") and kind.startswith("kind")
    assert page.is_visible("#dialogues .reasons >> nth=0")


def test_cases_are_searched_ordered_and_ranked(visit, path):
    page = visit(path)
    page.keyboard.press("/")
    page.keyboard.type("Loves TAGS")
    assert case(page).startswith("p5</script>") and page.inner_text("#count") == "1 of 7 cases"
    assert page.inner_text("#profile mark") == "loves tags"
    page.fill("#search", "nothing has this")
    assert page.inner_text("#count") == "0 of 7 cases"
    page.fill("#search", "")
    page.select_option("#order", label="lowest for other")
    lowest = case(page)
    page.select_option("#order", label="highest for other")
    assert case(page) != lowest
    page.select_option("#ranked", label="other")
    means = [float(text) for text in page.locator("#worst .mean").all_inner_texts()]
    best = [float(text) for text in page.locator("#best .mean").all_inner_texts()]
    assert means == sorted(means) and best == sorted(best, reverse=True) and means[0] < best[0]
    assert page.inner_text("#worst .id >> nth=0") == lowest
    page.click("#worst button >> nth=0")
    assert case(page) == lowest and page.evaluate("document.activeElement.id") == "case"
    page.click("#people details:not([open]) summary")
    page.click("#people button >> nth=0")
    assert page.inner_text("#count").startswith("2 of 7 cases")
    page.click("#count button")
    assert page.inner_text("#count") == "7 cases"


def test_curves_of_training_are_read_by_step_and_switched_off_with_their_model(visit, trained, tmp_path):
    write_page(gather([trained]), tmp_path / "report.html")
    page = visit(tmp_path / "report.html")
    plot = page.locator("[data-chart='learning-watch']")
    plot.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    said = plot.locator(".tip").inner_text().split()
    assert " ".join(said) == "Step 8 rl, training judge 3.60 rl, watch judge 1.60"
    page.locator("[data-show='1']").first.click()
    assert plot.locator(".curve:visible").count() == 0
    assert page.locator("[data-chart='learning-equal'] .curve:visible").count() == 1


def test_charts_are_read_by_pointer_and_by_keys_and_models_switched_off(visit, path):
    page = visit(path)
    plot = page.locator("[data-chart='al']")
    plot.focus()
    page.keyboard.press("ArrowRight")
    tip = plot.locator(".tip")
    assert tip.inner_text().startswith("Turn 1") and tip.locator("tr").count() == 5
    assert case(page) == "p0"  # the same key elsewhere turns the case
    for _ in range(9):
        page.keyboard.press("ArrowRight")
    assert tip.inner_text().startswith("Turn 4")
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    plot.locator(".column rect >> nth=1").hover()
    assert tip.inner_text().startswith("Turn 2")
    page.click("#levels [data-show='2']")
    assert page.locator(".plot .e[data-entry='2']:visible").count() == 0
    assert page.locator("[data-show='2'][aria-pressed='false']").count() == 2  # the legend of the other charts, too
    plot.focus()
    page.keyboard.press("ArrowRight")
    assert tip.locator("tr").count() == 4
    assert page.locator("[data-chart='preferences-accuracy'] .e:visible").count() > 0
    page.focus("[data-chart='preferences-accuracy']")
    page.keyboard.press("ArrowRight")
    assert "good" in page.locator("[data-chart='preferences-accuracy'] .tip").inner_text()


def test_everything_is_reached_by_keyboard_and_every_chart_has_a_table(visit, path):
    page = visit(path)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    unreachable = """() => [...document.querySelectorAll("button, select, input, summary, .plot")]
        .filter((node) => node.tabIndex < 0).length"""
    assert page.evaluate(unreachable) == 0
    unnamed = """() => [...document.querySelectorAll("button, select, input")].filter((node) =>
        !node.textContent.trim() && !node.getAttribute("aria-label") && !node.labels?.length).map((n) => n.outerHTML)"""
    assert page.evaluate(unnamed) == []
    assert page.evaluate("document.querySelectorAll('svg.chart:not([aria-label])').length") == 0
    charts = page.locator("main svg.chart").count()
    tables = page.locator("main :is(figure, #levels) details table.turns").count()
    assert charts == tables == 12
    page.focus("#levels summary")
    page.keyboard.press("Enter")
    assert page.is_visible("#levels table")
    page.keyboard.press("ArrowRight")
    assert case(page) == "p1"
    page.focus("#case")
    page.keyboard.press("k")  # typed into a list, it is no key of the page
    assert shown_turn(page) == "4"


def test_hostile_texts_are_texts(visit, path):
    page = visit(path)
    page.select_option("#case", "5")
    page.click("[data-column='1']")
    page.click("#reasons")
    shown = page.locator("#dialogues .text >> nth=0").inner_text()
    assert shown.replace("\n", "\u2028") == HOSTILE or shown == HOSTILE
    assert case(page).startswith("p5</script>")
    assert page.locator("main img, main script, .transcripts b:not(.id, .beside b)").count() == 0
    assert page.evaluate("window.hit") is None
    page.fill("#search", "<img src=x")
    assert page.locator("mark").first.inner_text() == "<img src=x"
    assert page.evaluate("window.hit") is None


def test_dark_and_narrow(visit, path):
    def ground(page):
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = visit(path, color_scheme="light"), visit(path, color_scheme="dark")
    assert ground(light) == "rgb(251, 250, 248)" and ground(dark) == "rgb(20, 23, 26)"
    narrow = visit(path, viewport={"width": 380, "height": 800})
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 380
    assert heads(narrow) == ["good (first)"]  # one column fits: the best model's
    small = """() => [...document.querySelectorAll("main button, main select, main summary")]
        .filter((node) => node.offsetHeight && node.getBoundingClientRect().height < 20).length"""
    assert narrow.evaluate(small) == 0


def test_on_paper_it_is_light_complete_and_without_controls(visit, path, tmp_path):
    page = visit(path, color_scheme="dark", viewport={"width": 700, "height": 900})
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(29, 33, 38)"
    for gone in (".top", "#search", "#next", "[data-show]", "#people button"):
        assert not page.is_visible(f"{gone} >> nth=0"), gone
    for there in ("#simulated", "#incomplete", "#summary table", "#levels svg.chart", "#dialogues .reply", "#person"):
        assert page.is_visible(f"{there} >> nth=0"), there
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    page.pdf(path=tmp_path / "r.pdf", format="A4")
    assert (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF")
