"""The simulated world: what is written is read back, and evidence accumulates as intended."""

import json
import random
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe_jax.llm.protocol import Request
from aloe_jax.llm.scripted import MISJUDGED, Scripted
from aloe_jax.llm.world import persona_texts, replies, rubric, seed_personalities, seed_profiles, user_messages
from aloe_jax.llm.world.fact_wording import ASKED, FACT_KIND, FACT_KINDS, KIND_OF_VALUE, OTHERS
from aloe_jax.llm.world.style import AXES, FLAVOURS, NEUTRAL_LEADS, NEUTRAL_OPENERS

seeds = st.integers(0, 2**31 - 1)
CONVERSATIONS = 200
TURNS = 10


def word_forms(texts):
    return Counter(word for text in texts for word in re.findall(r"[a-z0-9]+", text.lower()))


# ---------------------------------------------------------------- the wording


def test_wording_can_be_told_apart():
    texts = [
        text
        for slot in FACT_KINDS
        for text in (*slot.profile, *slot.reveal, slot.other, *slot.inquiries, *slot.questions)
    ]
    texts += [text for slot in FACT_KINDS for offer in slot.offers for text in offer]
    poles = [pole for pair in AXES.values() for pole in pair]
    texts += [text for pole in poles for text in (*pole.traits, *pole.signs, *pole.replies)]
    texts += [*FLAVOURS, *OTHERS, *NEUTRAL_LEADS, *NEUTRAL_OPENERS]
    assert not word_forms(texts).keys() & KIND_OF_VALUE.keys(), "a value is also an ordinary word"
    assert len(KIND_OF_VALUE) == 40

    topics = {topic: slot.name for slot in FACT_KINDS for topic in slot.topics}
    assert len(topics) == sum(len(slot.topics) for slot in FACT_KINDS)
    in_replies = [text for pole in poles for text in pole.replies] + [*NEUTRAL_LEADS, *NEUTRAL_OPENERS]
    assert not word_forms(in_replies).keys() & topics.keys()
    for slot in FACT_KINDS:
        for offer in slot.offers:
            for text in offer:
                assert [topics[word] for word in persona_texts.words(text) if word in topics] == [slot.name]

    assert len(user_messages._SAID) == sum(
        len(slot.reveal) * len(slot.values) + len(slot.questions) for slot in FACT_KINDS
    ) + sum(len(pole.signs) for pole in poles), "two things a user can say read the same"
    assert all(len(pole.traits) >= 4 and len(pole.signs) >= 3 and len(pole.replies) >= 3 for pole in poles)


def test_plain_wording_expresses_no_pole():
    for seed in range(200):
        draw = random.Random(seed)
        slot = draw.choice(ASKED)
        read = replies.read_reply(replies.write_reply(slot.name, None, {}, draw))
        assert (read.topic, read.values, read.poles) == (slot.name, frozenset(), frozenset())


# ---------------------------------------------------------------- there and back


@given(seeds)
def test_personas_are_read_back(seed):
    draw = random.Random(seed)
    profile, personality = persona_texts.write_profile(draw), persona_texts.write_personality(draw)
    facts, poles = persona_texts.read_profile(profile), persona_texts.read_personality(personality)
    assert facts.keys() == FACT_KIND.keys() and poles.keys() == AXES.keys()
    for slot, sentence in persona_texts.profile_sentences(profile).items():
        assert sentence in profile and persona_texts.read_profile(sentence) == {slot: facts[slot]}
    for axis, sentence in persona_texts.personality_sentences(personality).items():
        assert sentence in personality and persona_texts.read_personality(sentence) == {axis: poles[axis]}


@given(seeds, st.integers(0, 10))
def test_messages_are_read_back_and_say_little_unasked(seed, turn):
    draw = random.Random(seed)
    facts = persona_texts.read_profile(persona_texts.write_profile(draw))
    poles = persona_texts.read_personality(persona_texts.write_personality(draw))
    said: list[str] = []
    for _ in range(turn):
        said.append(user_messages.say(facts, poles, said, draw))
    known, shown = user_messages.revealed(said)
    assert min(turn, 1) <= len(known) <= turn
    assert known.items() <= facts.items() and shown.items() <= poles.items()
    for number, message in enumerate(said):
        heard = user_messages.hear(message)
        assert heard.asked in FACT_KIND and len(heard.facts) <= 1 and len(heard.signs) <= 1
        assert len(heard.facts) == 1 or number > 0


@given(seeds, st.sampled_from(ASKED), st.integers(-1, 1), st.sampled_from([None, *FACT_KIND]))
def test_replies_are_read_back(seed, slot, number, inquiry):
    draw = random.Random(seed)
    poles = {axis: draw.randrange(2) for axis in AXES if draw.random() < 0.5}
    value = slot.values[number] if number >= 0 else None
    text = replies.write_reply(slot.name, value, poles, draw, inquiry)
    read = replies.read_reply(text)
    assert (read.topic, read.inquiry) == (slot.name, inquiry)
    if inquiry is not None:  # which has the position of humour
        poles.pop("humour", None)
    assert read.values == ({value} if value else set())
    assert dict(read.poles) == poles and len(read.poles) == len(poles)
    assert read.sentences <= rubric.MOST_SENTENCES and len(text.split()) <= 20
    assert text[0].isupper() and "  " not in text


# ---------------------------------------------------------------- the rubric

FACTS = {slot.name: slot.values[0] for slot in FACT_KINDS}
POLES = dict.fromkeys(AXES, 0)


@pytest.mark.parametrize(
    ("reply", "score", "rating"),
    [
        ("Happy to help, dear. Just go for a bowl of ramen with friends. Wear a silly hat!", 5.0, 5),
        ("Sure. Try a bowl of ramen.", 3.0, 3),
        ("Sure. Try a bowl of leftovers.", 1.5, 2),
        ("Happy to help, dear. Try a bowl of leftovers.", 2.0, 2),
        ("Sure. Try a bowl of tacos.", 0.0, 1),
        ("Sure. Try a bowl of ramen and tacos.", 0.0, 1),
        ("Short answer. Set a date for a bowl of leftovers on your own. Take it seriously.", -0.5, 1),
        ("Happy to help, dear. Short answer. Try a bowl of leftovers.", 1.5, 2),
        ("Sure. Try a walk through town.", 0.0, 1),
        ("Sure. Sure. Try a bowl of leftovers. Okay.", 0.5, 1),
        ("Try " * 40 + "a bowl of ramen.", 2.0, 2),
        ("", 0.0, 1),
    ],
)
def test_the_rubric_on_known_replies(reply, score, rating):
    found, reason = rubric.assess("food", FACTS, POLES, reply)
    assert (found, rubric.rating(found)) == (score, rating), reason


@given(
    st.one_of(
        st.text(), st.lists(st.sampled_from([*KIND_OF_VALUE, "bowl", "of", "dear.", "Take", "it", "!"])).map(" ".join)
    )
)
def test_the_rubric_takes_any_text(reply):
    for asked in ("food", None):
        score, reason = rubric.assess(asked, FACTS, POLES, reply)
        assert rubric.rating(score) in range(1, 6) and reason.endswith(".")
    assert rubric.assess("food", {}, {}, reply)[0] <= 1.5


# ---------------------------------------------------------------- many conversations


def ask(role: str, seed: str, **inputs):
    text = Scripted().complete(Request(role, inputs, "", "", {}, 0.0, int.from_bytes(seed.encode()))).text
    return json.loads(text)


@pytest.fixture(scope="module")
def simulated():
    """Ratings [conversations, turns] by kind of reply, and all texts of the conversations."""
    kinds = ("plain", "hinted", "preferred", "rejected", "informed")
    ratings = {kind: np.zeros((CONVERSATIONS, TURNS)) for kind in kinds}
    users, answers, personas = [], [], []
    for case in range(CONVERSATIONS):
        draw = random.Random(case)
        known = {"profile": persona_texts.write_profile(draw), "personality": persona_texts.write_personality(draw)}
        personas += known.values()
        history: list[dict[str, str]] = []
        for turn in range(TURNS):
            at = f"{case} {turn}"
            user = ask("user", at, history=history, **known)["message"]
            history.append({"role": "user", "content": user})
            said = [message["content"] for message in history if message["role"] == "user"]
            hint = ask("inducer", at, messages=said, **known)
            here = {"history": history, "faithful": False}
            plain = ask("responder", at, hinted=False, profile="", personality="", **here)["reply"]
            hinted = ask("responder", at, hinted=True, **hint, **here)["reply"]
            informed = ask("responder", at, hinted=True, **known, **here | {"faithful": True})["reply"]
            first = ask("verifier", at, first=hinted, second=plain, history=history, **known)["preferred"] == "A"
            pair = (hinted, plain) if first else (plain, hinted)
            for kind, reply in zip(kinds, (plain, hinted, *pair, informed), strict=True):
                rating = ask("judge", at, reply=reply, history=history, **known)["rating"]
                ratings[kind][case, turn] = rating
            users.append(user)
            answers += [plain, hinted]
            history.append({"role": "assistant", "content": pair[draw.randrange(2)]})
    return ratings, users, answers, personas


def slope(ratings):
    return np.polyfit(np.arange(1, TURNS + 1), ratings.mean(0), 1)[0]


def test_evidence_accumulates(simulated):
    ratings = simulated[0]
    mean = {kind: values.mean() for kind, values in ratings.items()}
    for kind, values in ratings.items():
        print(f"{kind:10} {np.round(values.mean(0), 2)} mean {mean[kind]:.2f} slope {slope(values):.3f}")
    assert abs(slope(ratings["plain"])) < 0.02, "a reply that ignores the user must not improve"
    assert 1.5 < mean["plain"] < 2.0
    assert 0.06 < slope(ratings["hinted"]) < 0.15
    hinted = ratings["hinted"].mean(0)
    assert hinted[0] < 2.6 and 2.9 < hinted[-1] < 3.6
    assert hinted[:3].mean() < hinted[3:6].mean() < hinted[6:].mean()
    assert mean["informed"] > 4.7 and abs(slope(ratings["informed"])) < 0.02


def test_preferred_replies_are_better_not_perfect(simulated):
    ratings = simulated[0]
    gap = ratings["preferred"] - ratings["rejected"]
    assert gap.mean() > 0.8
    assert 0.03 < (gap < 0).mean() < MISJUDGED + 0.02
    assert ratings["preferred"].mean() < 3.5 and slope(ratings["preferred"]) > 0.06


def test_responders_ask_now_and_then(simulated):
    answers = simulated[2]
    for number, kind in enumerate(("plain", "hinted")):
        asking = np.mean([replies.read_reply(text).inquiry is not None for text in answers[number::2]])
        print(f"{kind}: {asking:.2f} of the replies ask the user for a fact")
        assert 0.05 < asking < 0.25, kind
    unhinted = {replies.read_reply(text).inquiry for text in answers[::2]}
    assert unhinted == {None, *FACT_KIND}, "who knows nothing asks for anything"


def test_who_knows_every_fact_asks_for_none():
    asked = [replies.respond("food", FACTS, {}, replies.FAITHFUL, random.Random(seed)) for seed in range(200)]
    assert {replies.read_reply(text).inquiry for text in asked} == {None}


def test_texts_are_short_and_their_words_few(simulated):
    _, users, answers, personas = simulated
    user_lengths, reply_lengths = ([len(text.split()) for text in texts] for texts in (users, answers))
    print("words a message", np.mean(user_lengths), max(user_lengths), "a reply", np.mean(reply_lengths))
    assert np.percentile(user_lengths, 95) <= 19 and max(user_lengths) <= 26
    assert np.percentile(reply_lengths, 95) <= 16 and max(reply_lengths) <= 20
    talked, everything = word_forms(users + answers), word_forms(users + answers + personas)
    print("word forms", len(talked), "with personas", len(everything))
    assert len(talked) <= 400 and len(everything) <= 600


def test_the_pool_grows_past_the_similarity_filter():
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(stop_words="english", ngram_range=(1, 2), n_features=2**18)
    for write, start in (
        (persona_texts.write_profile, seed_profiles()),
        (persona_texts.write_personality, seed_personalities()),
    ):
        texts = start + [write(random.Random(f"pool {number}")) for number in range(150)]
        rows = vectorizer.transform(texts)
        cosine = (rows @ rows.T).toarray()
        kept: list[int] = []
        for number in range(len(texts)):
            if not kept or cosine[number, kept].max() <= 0.6:
                kept.append(number)
        assert kept[: len(start)] == list(range(len(start))), "the seeds repeat one another"
        assert len(kept) >= 130
        copies = vectorizer.transform([persona_texts.write_variant(text, random.Random(0)) for text in texts])
        assert np.asarray(copies.multiply(rows).sum(1)).min() > 0.6, "a near-copy would pass the filter"
