"""The simulated user listens: what he reveals depends on the reply, and on nothing else but the seed."""

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe_jax.llm.protocol import Request
from aloe_jax.llm.scripted import Scripted
from aloe_jax.llm.world import persona_texts, replies, user_messages
from aloe_jax.llm.world.fact_wording import ASKED, FACT_KIND, FACT_KINDS, OTHERS
from aloe_jax.llm.world.listening import react
from aloe_jax.llm.world.style import AXES
from aloe_jax.llm.world.user_messages import AT_EASE, Reaction

CONVERSATIONS = 150
TURNS = 10
FACTS = {kind.name: kind.values[0] for kind in FACT_KINDS}
POLES = dict.fromkeys(AXES, 0)
SAID = "Ha ha! I keep a parrot. What should I cook?"
GENERIC = "Sure. Try a bowl of leftovers."

# Every sentence that a user may say, of himself or of others, written out here from the wording alone.
SENTENCES = {text.format(value) for kind in FACT_KINDS for text in kind.reveal for value in kind.values}
SENTENCES |= {f"{who} {kind.other.format(value)}." for who in OTHERS for kind in FACT_KINDS for value in kind.values}
SENTENCES |= {text for kind in FACT_KINDS for text in kind.questions}
SENTENCES |= {text for poles in AXES.values() for pole in poles for text in pole.signs}


def exchange(reply, said=SAID):
    return [{"role": "user", "content": said}, {"role": "assistant", "content": reply}]


def message(history, profile, personality, seed):
    inputs = {"profile": profile, "personality": personality, "history": history}
    return json.loads(Scripted().complete(Request("user", inputs, "", "", {}, 0.0, seed)).text)["message"]


def persona(number):
    draw = random.Random(f"listening {number}")
    return persona_texts.write_profile(draw), persona_texts.write_personality(draw)


# ---------------------------------------------------------------- how a reply is taken


@pytest.mark.parametrize(
    ("reply", "mood"),
    [
        (GENERIC, "at ease"),
        ("Happy to help, dear. Try a bowl of leftovers.", "open"),
        ("Sure. Try a bowl of ramen.", "open"),
        ("Sure. Try a bowl of leftovers on your own. Wear a silly hat!", "at ease"),
        ("Short answer. Try a bowl of leftovers.", "curt"),
        ("Happy to help, dear. Try a bowl of tacos.", "curt"),
        (f"{GENERIC} {GENERIC}", "curt"),
    ],
)
def test_the_mood_follows_the_fit_of_the_reply(reply, mood):
    assert react(exchange(reply), FACTS, POLES) == Reaction(mood)


@pytest.mark.parametrize("reply", ["Sure. Try a cup of cocoa.", "", "Okay.", "xqz \x00\n ...", "寿司 🍣 naïve\u2028"])
def test_off_the_topic_the_question_is_repeated(reply):
    assert react(exchange(reply), FACTS, POLES) == Reaction("curt", again="What should I cook?")
    assert {message(exchange(reply), *persona(0), seed) for seed in range(20)} == {"What should I cook?"}


@pytest.mark.parametrize("kind", FACT_KINDS, ids=lambda kind: kind.name)
def test_every_question_to_the_user_is_read(kind):
    for question in kind.inquiries:
        assert react(exchange(f"{GENERIC} {question}"), FACTS, POLES) == Reaction("at ease", inquiry=kind.name)
        assert replies.read_reply(question) == replies.Read(
            None, frozenset(), frozenset(), len(persona_texts.words(question)), 1, kind.name
        )


def test_without_a_reply_the_user_is_at_ease():
    greeting = {"role": "assistant", "content": "Sure."}
    for history in ([], [greeting], exchange(GENERIC)[:1], [*exchange(GENERIC)[:1]] * 2, [greeting] * 2):
        assert react(history, FACTS, POLES) is AT_EASE


@given(st.text(), st.text())
def test_any_text_is_taken(said, reply):
    profile, personality = persona(1)
    answer = message(exchange(reply, said), profile, personality, 7)
    assert answer == message(exchange(reply, said), profile, personality, 7)
    assert set(persona_texts.sentences(answer)) <= SENTENCES


# ---------------------------------------------------------------- what follows


@given(st.integers(0, 10**6), st.sampled_from(FACT_KINDS), st.sampled_from(["at ease", "open"]))
def test_a_fact_that_is_asked_for_is_stated(seed, kind, mood):
    draw = random.Random(seed)
    earlier: list[str] = []
    for _ in range(seed % 6):
        earlier.append(user_messages.say(FACTS, POLES, earlier, draw))
    before, shown = user_messages.revealed(earlier)
    heard = user_messages.hear(user_messages.say(FACTS, POLES, earlier, draw, Reaction(mood, inquiry=kind.name)))
    stated = [name for name, _ in heard.facts]
    assert kind.name in stated and all(FACTS[name] == value for name, value in heard.facts)
    if kind.name in before:  # stated again, in place of a new one
        assert len(stated) - 1 <= (mood == "open")
    else:  # and with it a trait, while one is hidden
        assert len(stated) <= 2 and len(set(stated) - before.keys()) == len(stated)
        assert len(shown) == len(POLES) or [axis for axis, _ in heard.signs if axis not in shown]


def test_moods_differ_by_what_they_reveal():
    """Curt users reveal nothing; an open one never less than one at ease, and more on the whole; one asked most."""
    found = {mood: [] for mood in ("curt", "at ease", "open", "asked")}
    for seed in range(600):
        draw = random.Random(seed)
        earlier: list[str] = []
        for _ in range(seed % 5):
            earlier.append(user_messages.say(FACTS, POLES, earlier, draw))
        facts, poles = user_messages.revealed(earlier)
        unknown = next(kind.name for kind in FACT_KINDS if kind.name not in facts)
        for mood, new in found.items():
            reaction = Reaction("at ease", inquiry=unknown) if mood == "asked" else Reaction(mood)
            heard = user_messages.hear(user_messages.say(FACTS, POLES, earlier, random.Random(seed), reaction))
            assert heard.asked and (mood != "curt" or not (heard.facts or heard.signs))
            new.append(len(dict(heard.facts).keys() - facts.keys()) + len(dict(heard.signs).keys() - poles.keys()))
    assert not any(found["curt"])
    for less, more in (("curt", "at ease"), ("at ease", "open"), ("open", "asked")):
        gap = np.subtract(found[more], found[less])
        assert gap.mean() > 5 * gap.std(ddof=1) / np.sqrt(len(gap)), (less, more)


def test_a_persona_without_readable_facts_asks_all_the_same():
    said = user_messages.say({}, {}, [], random.Random(0), Reaction("open", inquiry="job"))
    assert user_messages.hear(said).asked and set(persona_texts.sentences(said)) <= SENTENCES


# ---------------------------------------------------------------- whole conversations


def fitting(asked, facts, poles, draw):
    return replies.respond(asked, facts, poles, replies.FAITHFUL, draw)


def clashing(asked, facts, poles, draw):
    return replies.write_reply(asked, None, {axis: 1 - pole for axis, pole in poles.items()}, draw)


def plain(asked, facts, poles, draw):
    return replies.respond(asked, {}, {}, replies.PLAIN, draw)


def off_topic(asked, facts, poles, draw):
    return replies.write_reply(next(kind.name for kind in ASKED if kind.name != asked), None, {}, draw)


WAYS = {"fitting": fitting, "clashing": clashing, "plain": plain, "off_topic": off_topic}


@pytest.fixture(scope="module")
def talks():
    """Facts and traits known after each turn [conversations, turns] by way to reply, and all user messages.

    The ways that fit or clash do so with what the user has revealed so far: they know nothing else.
    """
    known = {way: np.zeros((CONVERSATIONS, TURNS), int) for way in WAYS}
    messages = []
    for way, write in WAYS.items():
        for number in range(CONVERSATIONS):
            history: list[dict[str, str]] = []
            said: list[str] = []
            for turn in range(TURNS):
                seed = number * TURNS + turn  # the same in every way
                said.append(message(history, *persona(number), seed))
                facts, poles = user_messages.revealed(said)
                known[way][number, turn] = len(facts) + len(poles)
                asked = user_messages.hear(said[-1]).asked
                reply = write(asked, facts, poles, random.Random(seed))
                history += exchange(reply, said[-1])
            messages += said
    return known, messages


def test_fitting_replies_make_the_user_reveal_more(talks):
    known = talks[0]
    for better, worse in (("fitting", "plain"), ("plain", "clashing"), ("clashing", "off_topic")):
        gap = (known[better] - known[worse])[:, 5]  # of the same persona and seeds, half-way
        error = gap.std(ddof=1) / np.sqrt(CONVERSATIONS)
        print(f"{better} - {worse}: {gap.mean():.2f} ± {1.96 * error:.2f}")
        assert gap.mean() > 5 * error, (better, worse)
    assert (known["fitting"][:, 0] == known["off_topic"][:, 0]).all(), "nothing has been said to the user yet"
    assert (known["off_topic"] == known["off_topic"][:, :1]).all()


def test_every_sentence_of_a_user_is_known(talks):
    for said in talks[1]:
        assert set(persona_texts.sentences(said)) <= SENTENCES
        assert user_messages.hear(said).asked


def test_early_replies_matter_later():
    """Two conversations that differ in one reply alone, the first: more is known at the end after the better one."""
    ends = {way: [] for way in ("fitting", "off_topic")}
    for way, known in ends.items():
        for number in range(CONVERSATIONS):
            own = [read(text) for read, text in zip(READERS, persona(number), strict=True)]
            history: list[dict[str, str]] = []
            said: list[str] = []
            for turn in range(5):
                said.append(message(history, *persona(number), number * 5 + turn))
                asked = user_messages.hear(said[-1]).asked
                first = WAYS[way](asked, *own, random.Random(turn))
                history += exchange(first if turn == 0 else GENERIC_ON[asked], said[-1])
            known.append(sum(map(len, user_messages.revealed(said))))
    gap = np.subtract(ends["fitting"], ends["off_topic"])
    assert gap.mean() > 5 * gap.std(ddof=1) / np.sqrt(CONVERSATIONS)


READERS = (persona_texts.read_profile, persona_texts.read_personality)
GENERIC_ON = {kind.name: f"Sure. Try {kind.offers[0][1]}." for kind in ASKED}


def test_a_question_pays_at_the_next_turn():
    """A responder that asks for what users want advice on knows the fact asked about more often than one that waits."""
    knows = {asking: [] for asking in (False, True)}
    for asking, hits in knows.items():
        for number in range(400):
            first = message([], *persona(number), number)
            asked = user_messages.hear(first).asked
            facts = user_messages.revealed([first])[0]
            unknown = [kind for kind in ASKED if kind.name not in facts]
            reply = GENERIC_ON[asked] + (f" {FACT_KIND[unknown[0].name].inquiries[0]}" if asking else "")
            second = message(exchange(reply, first), *persona(number), number + 10**6)
            facts = user_messages.revealed([first, second])[0]
            hits.append(user_messages.hear(second).asked in facts)
    asked_for, waited = (np.mean(knows[asking]) for asking in (True, False))
    print(f"known when asked about: {asked_for:.2f} after a question, {waited:.2f} without")
    assert asked_for > waited + 0.2
