"""The page of conversation trees, in a real browser where one is installed."""

import base64
import gzip
import json
import os
import re

import pytest

from aloe_jax.conversation import Conversation, Persona, Turn
from aloe_jax.errors import AloeError
from datagen.look.browse import browse_data, write_page
from datagen.look.quality import Measures, Quality
from tests.conversations import conversation

HOSTILE = '</script><img src=x onerror="window.hit=1"><b>&amp;</b>'
PILOT = Persona(
    id="p0012-t034",
    profile="She is a ferry pilot on the Bergen run. She bakes cardamom buns on Sundays. She swims in the fjord.",
    personality="She asks blunt questions. She distrusts long explanations.",
)
BAKER = Persona(id="p0013-t034", profile="He bakes rye bread. He keeps two tortoises.", personality="He is loud.")


def turn(user, preferred, rejected, continued="preferred", hinted="preferred", told="", **place):
    return Turn(
        user=user,
        preferred=preferred,
        rejected=rejected,
        continued=continued,
        hinted=hinted,
        inferred_profile=told,
        **place,
    )


def sample() -> dict[str, list[Conversation]]:
    """A forked tree, an ordinary one, a hostile one and one with one reply a turn."""
    pilot = "She is a ferry pilot on the Bergen run."
    forked = [
        turn("Fog on the early crossing.", "Slow Saturday?", "Bake cardamom buns on Sundays!", told="She is a pilot."),
        turn("The water is nine degrees.", "Add two minutes.", "Consult a doctor.", "rejected", told=pilot),
        turn("I asked for no leaflet.", "Then wait.", "Great question!", told=f"{pilot} She swims in the fjord."),
        turn("Two minutes it is.", "Good.", "So proud!", hinted="rejected", told=pilot, follows=1, after="preferred"),
    ]
    plain = [
        turn("My loaf cracked.", "Steam it.", "Buy bread.", "rejected", "rejected", told="He bakes rye bread."),
        turn("Steam how?", "A pan of water.", "Ask a tortoise.", "rejected", "rejected", told="He juggles knives."),
    ]
    hostile = Persona(id=f"x{HOSTILE}-t9", profile=f"{HOSTILE} He loves tags.", personality=HOSTILE)
    alone = Turn(user="Only one?", preferred="Yes.", rejected=None, continued="preferred")
    return {
        "train": [
            Conversation(id="p0012-t034-0", persona=PILOT, turns=forked),
            Conversation(id="p0013-t034-0", persona=BAKER, turns=plain),
        ],
        "validation": [
            Conversation(
                id=HOSTILE, persona=hostile, turns=[turn(HOSTILE, HOSTILE, "<svg onload=alert(1)>", told=HOSTILE)]
            ),
            Conversation(id="chat 1/ü", persona=BAKER, turns=[alone, alone]),
        ],
    }


def write_sample(target, **extra):
    waiting = Persona(id="p0900-t001", profile="Nobody talks to him.", personality="Quiet.")
    people = {"train": [PILOT, BAKER], "benchmark": [waiting]}
    return write_page(target, people, sample(), **{"title": "Sample", "simulated": "Simulated: a script.", **extra})


def payload(path):
    packed = re.search(r'id="data">([^<]*)<', path.read_text())[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


# ---------------------------------------------------------------- the file, without a browser


def test_one_file_without_a_network_and_without_foreign_markup(tmp_path):
    path = write_sample(tmp_path / "out" / "browse.html")
    text = path.read_text()
    assert os.listdir(path.parent) == ["browse.html"]
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!#)|@import|https?://(?!www\.w3\.org)", text)
    assert "default-src 'none'" in text
    assert "onerror" not in text
    assert text.count("</script>") == 2  # that of the data and that of the code
    before = path.read_bytes()
    assert write_sample(path).read_bytes() == before


def test_inferred_sentences_are_those_of_the_persona(tmp_path):
    trees = payload(write_sample(tmp_path / "browse.html"))["conversations"]
    told = [[one["i"] for one in tree["turns"]] for tree in trees]
    # In other words and in the persona's own; what is in no sentence of the persona.
    assert told[0] == [[["She is a pilot.", 0]], [0], [0, 2], [0]]
    assert told[1] == [[0], [["He juggles knives.", -1]]]
    assert trees[0]["turns"][0]["l"] == [[1, 1]]
    assert [(tree["depth"], tree["forked"]) for tree in trees] == [(3, True), (2, False), (1, False), (2, False)]


def test_sources(tmp_path):
    from aloe_jax.data.tfds_records import stored
    from datagen.build import write_tfds

    parts = sample()
    splits = {name: [stored(tree) for tree in part] for name, part in parts.items()}
    directory = write_tfds("aloe_trees", splits, tmp_path / "tfds", {"simulated": True, "seed": 3})
    page = payload(browse_data(directory, tmp_path / "a.html"))
    assert [tree["split"] for tree in page["conversations"]] == ["train", "train", "validation", "validation"]
    assert page["title"] == "Conversation trees: aloe_trees 1.0.0"
    assert page["simulated"].startswith("Simulated") and json.loads(page["provenance"])["seed"] == 3

    for name, part in (("own.jsonl", "train"), ("own.validation.jsonl", "validation")):
        (tmp_path / name).write_text("".join(tree.to_json() + "\n" for tree in parts[part]))
    page = payload(browse_data(tmp_path / "own.jsonl", tmp_path / "b.html"))
    assert [tree["split"] for tree in page["conversations"]] == ["train", "train", "validation", "validation"]
    assert page["simulated"] == "" and page["provenance"] == "not recorded"
    page = payload(browse_data(tmp_path / "own.validation.jsonl", tmp_path / "b.html"))
    assert [tree["split"] for tree in page["conversations"]] == ["", ""]
    with pytest.raises(AloeError, match="no such file"):
        browse_data(tmp_path / "none.jsonl", tmp_path / "c.html")
    with pytest.raises(AloeError, match=r"dataset_info\.json"):
        browse_data(tmp_path, tmp_path / "c.html")
    with pytest.raises(AloeError, match="nothing to show"):
        write_page(tmp_path / "c.html", {"train": []}, {}, title="empty")
    assert not (tmp_path / "c.html").exists()


def test_a_journal_is_shown_while_it_grows(tmp_path):
    from aloe_jax.llm.ledger import Ledger
    from aloe_jax.llm.world import seed_personalities, seed_profiles
    from aloe_jax.roles import Cast
    from datagen.conversations import write_conversations
    from datagen.look.browse import browse_journal
    from datagen.personas import write_personas
    from tests.players import small_settings

    settings = small_settings(tmp_path, count=1)
    with Ledger(tmp_path / "journal.sqlite") as ledger:
        cast = Cast(settings.roles, ledger)
        with pytest.raises(AloeError, match="python -m datagen personas"):
            browse_journal(ledger, settings)
        personas, _ = write_personas(ledger, cast, settings, (seed_profiles(), seed_personalities()))
        page = payload(browse_journal(ledger, settings))
        assert (len(page["personas"]), page["conversations"]) == (16, [])
        assert {persona["split"] for persona in page["personas"]} == {"train", "benchmark"}
        write_conversations(ledger, cast, personas.training, settings)
        assert [tree["split"] for tree in payload(browse_journal(ledger, settings))["conversations"]] == ["train"]
        settings = small_settings(tmp_path)
        write_conversations(ledger, cast, personas.training, settings)
        page = payload(browse_journal(ledger, settings))
    assert {tree["split"] for tree in page["conversations"]} == {"train", "validation"}
    assert page["simulated"].startswith("Simulated")
    assert json.loads(page["provenance"])["roles"]["user"].keys() <= {"model", "temperature", "thinking_budget"}
    assert all(number >= 0 for tree in page["conversations"] for one in tree["turns"] for number in one["i"])


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("page") / "browse.html")


@pytest.fixture
def visit(browser):
    """Opens a page; afterwards there must have been no error in it and nothing fetched but the file."""
    faults, opened = [], []

    def visit(path, hash="", **context):
        page = browser.new_page(**{"viewport": {"width": 1440, "height": 900}, **context})
        opened.append(page)
        page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith(path.as_uri()) else faults.append(asked.url))
        page.goto(path.as_uri() + hash)
        page.wait_for_selector("html[data-ready]")
        return page

    yield visit
    for page in opened:
        page.close()
    assert faults == []


def rows(page) -> list[str]:
    return page.locator(".row .id").all_inner_texts()


def dialogue(page) -> list[str]:
    return page.locator(".user").all_inner_texts()


def test_search_narrows_the_list_and_marks_what_it_found(visit, path):
    page = visit(path)
    assert len(rows(page)) == 4
    page.keyboard.press("/")
    page.keyboard.type("TORTOISE")
    assert rows(page) == ["p0013-t034-0", "chat 1/ü"]  # in a reply; in the persona
    assert page.inner_text("#count") == "2 of 4 conversations"
    assert page.locator(".row mark").all_inner_texts() == ["tortoise", "tortoise"]
    page.fill("#search", "tortoise pan")
    assert rows(page) == ["p0013-t034-0"]
    page.fill("#search", '"water of pan"')
    assert rows(page) == [] and page.is_visible("#nothing")
    page.fill("#search", '"pan of water"')
    page.keyboard.press("Enter")
    assert page.inner_text("#sheet mark") == "pan of water"
    page.fill("#search", "")
    assert len(rows(page)) == 4


def test_a_tree_is_opened_by_click_by_address_and_by_key(visit, path):
    page = visit(path)
    page.click(".row:has-text('p0013')")
    assert dialogue(page) == ["My loaf cracked.", "Steam how?"]
    assert page.url.endswith("#p0013-t034-0")
    page.keyboard.press("k")
    assert page.inner_text("#name") == "p0012-t034-0"
    for _ in range(9):
        page.keyboard.press("j")
    assert page.inner_text("#name") == "chat 1/ü" and page.inner_text("#place") == "4 of 4"
    linked = visit(path, page.url.partition("#")[2] and "#" + page.url.partition("#")[2])
    assert linked.inner_text("#name") == "chat 1/ü"
    assert linked.locator(".reply").count() == 2  # one a turn
    linked.go_back()


def test_preferred_continued_and_hinted_are_marked(visit, path):
    page = visit(path, "#p0013-t034-0")
    preferred, rejected = page.locator(".turn").first.locator(".reply").all()
    assert preferred.locator("header").inner_text().split("\n") == ["Preferred"]
    assert rejected.locator("header").inner_text().split("\n") == ["Rejected", "with hint", "continued ↓"]
    assert rejected.get_attribute("aria-checked") == "true"
    assert "drawn to continue" in page.locator(".turn").last.inner_text()


def test_a_branch_nobody_answered_ends(visit, path):
    page = visit(path, "#p0013-t034-0")
    page.click(".reply[data-turn='0'][data-branch='0']")
    assert dialogue(page) == ["My loaf cracked."]
    assert "the branch ends here" in page.inner_text(".end")
    page.click(".end button")
    assert dialogue(page) == ["My loaf cracked.", "Steam how?"]


def test_a_fork_goes_on_from_either_reply(visit, path):
    page = visit(path, "#p0012-t034-0")
    assert dialogue(page)[2] == "I asked for no leaflet."
    assert "answered ↓" in page.locator(".reply[data-turn='1'][data-branch='0']").inner_text()
    page.click(".reply[data-turn='1'][data-branch='0']")
    assert dialogue(page)[2] == "Two minutes it is."
    page.keyboard.press("ArrowRight")
    assert dialogue(page)[2] == "I asked for no leaflet."
    page.keyboard.press("ArrowLeft")
    assert dialogue(page)[2] == "Two minutes it is."


def test_the_persona_shows_what_is_known_at_the_turn_read(visit, path):
    page = visit(path, "#p0012-t034-0")

    def traits(kind):
        return [text.split()[2] for text in page.locator(f"#who .trait.{kind}").all_inner_texts()]

    assert (traits("new"), traits("known")) == (["a"], [])
    assert "1 of 5 sentences" in page.inner_text("#who")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.locator(".turn.here .number").inner_text() == "3"
    assert (traits("new"), traits("known")) == (["in"], ["a"])
    assert page.locator(".turn").nth(2).locator(".learned .new").all_inner_texts() == ["She swims in the fjord."]
    page.click("#who .trait.known")  # leads to the turn that revealed it
    assert page.locator(".turn.here .number").inner_text() == "1"
    assert "Not revealed yet" in page.locator(".reply[data-turn='0'][data-branch='1']").inner_text()
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    assert traits("earlier") == ["rye"]
    assert "He juggles knives." in page.inner_text("#who .beyond")


def test_what_an_inducer_passed_over_and_states_again_is_no_news(visit, tmp_path):
    bread, pets = "He bakes rye bread.", "He keeps two tortoises."
    turns = [turn("A.", "B.", "C.", told=told) for told in (bread, pets, f"{bread} {pets}", "")]
    tree = Conversation(id="again", persona=BAKER, turns=turns)
    page = visit(write_page(tmp_path / "again.html", {}, {"train": [tree]}, title="Again"))
    learned = page.locator(".turn:nth-of-type(3) .learned")
    assert learned.locator(".again").all_inner_texts() == [bread]
    assert learned.locator(".label").inner_text() == "Inferred again"
    for _ in range(2):
        page.keyboard.press("ArrowDown")
    assert (
        page.locator("#who .known").all_inner_texts() == [bread, pets] and page.locator("#who .new .trait").count() == 0
    )


def test_filters_sorting_and_chips(visit, path):
    page = visit(path)
    page.keyboard.press("f")
    page.select_option("#filters label:has-text('Split') select", "validation")
    assert len(rows(page)) == 2
    page.click("#chips button")
    assert len(rows(page)) == 4
    page.select_option("#filters label:has-text('hint') select", "all")
    assert rows(page) == [HOSTILE]
    page.select_option("#filters label:has-text('hint') select", "some")
    assert rows(page) == ["p0012-t034-0", "p0013-t034-0"]
    page.select_option("#filters label:has-text('Turns') select", "forked")
    assert rows(page) == ["p0012-t034-0"]
    for _ in range(2):
        page.click("#chips button >> nth=0")
    page.fill("#filters label:has-text('Profile') input", "p0013")
    assert rows(page) == ["p0013-t034-0", "chat 1/ü"]
    page.click("#chips button")
    page.select_option("#sort", "leakage")
    assert rows(page)[0] == "p0012-t034-0"
    page.click("#direction")
    assert rows(page)[-1] == "p0012-t034-0"
    lower = page.get_by_label("persona leakage, at least")
    lower.focus()
    page.keyboard.press("ArrowRight")  # a step from zero: only those that leak
    assert rows(page) == ["p0012-t034-0"]
    page.click("#who .title button >> nth=1")
    assert page.locator("#chips button").all_inner_texts()[0] == "personality t034"


def test_personas_have_a_page(visit, path):
    page = visit(path)
    page.click("#tab-personas")
    assert rows(page) == ["p0012-t034", "p0013-t034", "p0900-t001", f"x{HOSTILE}-t9"]
    assert "She bakes cardamom buns" in page.inner_text("#sheet")
    page.fill("#search", "nobody talks")
    assert rows(page) == ["p0900-t001"]
    page.fill("#search", "")
    page.click(".row:has-text('p0013')")
    page.click(".talks button >> nth=1")
    assert page.inner_text("#name") == "chat 1/ü"
    page.go_back()
    assert page.url.endswith("#persona=p0013-t034")
    assert page.inner_text(".person p >> nth=0") == BAKER.profile


def test_hostile_texts_are_texts(visit, path):
    page = visit(path)
    page.click(".row >> nth=2")
    assert page.inner_text("#name") == HOSTILE
    assert dialogue(page) == [HOSTILE]
    assert HOSTILE in page.inner_text("#who")
    page.fill("#search", "<b>&amp;")
    page.wait_for_selector("#sheet mark")
    assert "<b>&amp;" in page.locator("#sheet mark").all_inner_texts()
    page.click("#tab-personas")
    assert page.locator("img, #sheet svg, #sheet b, #who b").count() == page.locator(".facts b").count() == 0
    assert page.evaluate("window.hit") is None


def test_simulated_is_said_plainly_and_only_when_it_is(visit, path, tmp_path):
    page = visit(path)
    assert page.inner_text("#notice") == "Simulated: a script." and page.is_visible("#badge")
    page = visit(write_sample(tmp_path / "real.html", simulated=""))
    assert not page.is_visible("#notice") and not page.is_visible("#badge")


def test_light_dark_and_narrow(visit, path):
    def colour(page):
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page, dark = visit(path, color_scheme="light"), visit(path, color_scheme="dark")
    light = colour(page)
    assert light != colour(dark)
    for wanted in (light, colour(dark), light):  # light, dark, as the system
        page.keyboard.press("t")
        assert colour(page) == wanted
    page = visit(path, viewport={"width": 400, "height": 800})
    assert page.is_visible("#list") and not page.is_visible("#reader")
    page.click(".row >> nth=1")
    assert page.is_visible("#reader") and not page.is_visible("#list")
    assert not page.is_visible("#who p")
    page.click("#who .fold")
    assert page.is_visible("#who p >> nth=0")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.click("#back")
    assert len(rows(page)) == 4


def test_three_thousand_conversations_open_and_answer_every_keystroke(visit, tmp_path):
    trees = [conversation(10, f"c{number}") for number in range(3000)]
    for number, tree in enumerate(trees):
        for place, one in enumerate(tree.turns):
            one.__dict__["user"] += f" {number * place % 997} the fog stayed on the water all morning" * 2
            one.__dict__["preferred"] += f" and so the crossing took until {number % 89} past ten" * 4
    nothing = Measures(*[0.5] * 8)
    quality = Quality(nothing, [nothing] * 3000, [nothing] * 10, [[]] * 3000)
    path = write_page(tmp_path / "many.html", {}, {"train": trees}, title="Many", quality=quality)
    page = visit(path)
    assert page.inner_text("#count") == "3,000 conversations"
    assert page.locator(".row").count() < 40
    typed = """(words) => {
        const field = document.getElementById("search"), spent = [];
        for (const word of words) {
            const start = performance.now();
            field.value = word;
            field.dispatchEvent(new Event("input"));
            document.getElementById("list").offsetHeight;
            spent.push(performance.now() - start);
        }
        return spent;
    }"""
    page.wait_for_selector("html[data-prepared]")
    spent = page.evaluate(typed, ["f", "fo", "fog", "fog 9", "fog 99", "fog 997 water", "", '"until 88 past"'])
    assert sorted(spent)[len(spent) // 2] < 300, spent
    assert page.inner_text("#count") == "33 of 3,000 conversations"
    page.fill("#search", "")
    page.evaluate("document.getElementById('list').scrollTop = 1e9")
    page.wait_for_selector(".row:has-text('c2999')")
    page.click(".row:has-text('c2999')")
    assert len(dialogue(page)) == 10
