"""The measures: by hand, against a plain reference, and where there is nothing to measure."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe_jax.conversation import Conversation, Persona, Turn
from datagen.look import quality, stats
from datagen.look.quality import Leak, measure
from datagen.look.sentences import content_words, sentences, words
from tests.conversations import conversation

PERSONA = Persona(
    id="p1-t1",
    profile="She bakes cardamom buns on Sundays. She rows across the fjord. Vegan.",
    personality="She distrusts long explanations.",
)


def tree(*turns, persona=PERSONA) -> Conversation:
    return Conversation(id="c", persona=persona, turns=[Turn(**turn) for turn in turns])


def turn(user, preferred="Mm.", rejected="Hm.", continued="preferred", **more):
    return {"user": user, "preferred": preferred, "rejected": rejected, "continued": continued, **more}


# ---------------------------------------------------------------- sentences


@settings(max_examples=200)
@given(st.text(alphabet="aB .!?\n。\"')\u2028Dr", max_size=40))
def test_sentences_lose_nothing(text):
    parts = sentences(text)
    assert "".join(parts) == text
    assert all(part.strip() for part in parts[:-1]) or not text.strip()


def test_sentences_end_where_they_should():
    text = 'Dr. Ahn lives in St. Ives. "Really?" she asked.\nJ. Ode nods… 雨。晴'
    assert [part.strip() for part in sentences(text)] == [
        "Dr. Ahn lives in St. Ives.",
        '"Really?"',
        "she asked.",
        "J. Ode nods…",
        "雨。",
        "晴",
    ]
    assert sentences("") == []


def test_content_words_meet_across_persons():
    assert content_words("She bakes the buns, and studies bees.") == ["bak", "bun", "study", "bee"]
    assert content_words("I'm baking a bun; do you study a bee?") == ["bak", "bun", "study", "bee"]
    assert content_words("None of it is in there") == []


# ---------------------------------------------------------------- by hand


def test_drift_is_measured_against_the_exchange_that_is_answered():
    measured = measure(
        [
            tree(
                turn("kites", "red kites", "blue boats", continued="preferred"),
                turn("red kites", "green lamps", "blue boats", continued="rejected"),
                turn("boats"),
                turn("lamps", follows=1, after="preferred"),
            )
        ]
    )
    first, second, third = (measures.drift for measures in measured.turns)
    assert math.isnan(first)
    # "red kites" after "kites" and "red kites": (1, 1) and (1, 2)
    assert second == pytest.approx(1 - 3 / math.sqrt(2 * 5))
    # "boats" after "red kites, blue boats", "lamps" after "red kites, green lamps"
    assert third == pytest.approx(1 - 1 / 2)


def test_repetition_looks_back_along_the_path_only():
    said = "one two three four five"  # two 4-grams
    measured = measure(
        [
            tree(
                turn("a b c d", said, "six seven eight nine"),
                turn("a b c d e", "six seven eight nine", f"{said} six"),
                turn("b c d e f", said, "x", follows=0, after="rejected"),
            )
        ]
    )
    second = (measured.turns[1].reply_repetition, measured.turns[1].user_repetition)
    # After the preferred reply: 0 of 1 and 2 of 3. After the other one: 0 of 2.
    assert second == (pytest.approx((2 / 4 + 0) / 2), pytest.approx((1 / 2 + 0) / 2))
    assert math.isnan(measured.turns[0].reply_repetition)


def test_leaks_are_told_by_turn_reply_and_sentence():
    buns = "You could bake cardamom buns on Sunday."
    measured = measure(
        [
            tree(
                turn("Morning.", "Morning!", buns, continued="rejected"),
                turn("My cardamom buns are for Sundays.", buns, "Explanations? You distrust long ones."),
                turn("And now?", "Row over the fjord.", "Row.", inferred_profile="She rows across the fjord."),
                turn("Well?", "Row across that fjord.", "A vegan dish.", follows=0, after="preferred"),
            )
        ]
    )
    assert measured.leaks == [
        [
            Leak(0, "rejected", 0),  # not revealed before
            Leak(1, "rejected", 3),  # now she has told about the buns, not about explanations
            Leak(3, "preferred", 1),  # inferred on another branch only; one word says too little to be a sentence
        ]
    ]
    assert [measures.leakage for measures in measured.turns] == [0.5, 0.5, 0.0]
    assert [measures.revealed for measures in measured.turns] == pytest.approx([0, 0, 1 / 3])


def test_one_reply_no_hint_and_nothing_but_stop_words():
    (measured,) = measure([tree(turn("and then", "so it is", None))]).conversations
    assert (measured.reply_words, measured.user_words, measured.leakage) == (3, 2, 0)
    assert math.isnan(measured.hint_won) and math.isnan(measured.drift)
    short = Persona(id="p", profile="Vegan.", personality="Dry.")
    (measured,) = measure([tree(turn("Lunch?", "vegan", None), persona=short)]).conversations
    assert math.isnan(measured.leakage) and math.isnan(measured.revealed)  # no sentence is long enough to be stated


def test_means_are_over_turns_then_conversations():
    measured = measure([conversation(1, "a"), conversation(3, "b")])
    assert [one.hint_won for one in measured.conversations] == [0, pytest.approx(1 / 3)]
    assert measured.overall.hint_won == pytest.approx(1 / 6)
    assert [one.hint_won for one in measured.turns] == [0, 1, 0]
    with pytest.raises(ValueError, match="no conversations"):
        measure([])


def test_labels_write_every_measure():
    written = {label.name: (label.written(0.256), label.written(math.nan)) for label in quality.LABELS}
    assert written.keys() == set(quality.NAMES)
    assert (
        written["leakage"] == ("25.6%", stats.NONE)
        and written["drift"][0] == "0.26"
        and written["user_words"][0] == "0.3"
    )


# ---------------------------------------------------------------- against a plain reference

WORDS = st.sampled_from(["oak", "elm", "bake", "baking", "rows", "fjord", "the", "and", "vegan", "She", "Sundays"])
TEXTS = st.lists(WORDS, min_size=1, max_size=9).map(" ".join)


@st.composite
def trees(draw):
    turns, places = [], []
    for number in range(draw(st.integers(1, 5))):
        place = places.pop(draw(st.integers(0, len(places) - 1))) if number else None
        rejected = draw(st.none() | TEXTS)
        extra = {"follows": place[0], "after": place[1]} if place else {}
        branch = draw(st.sampled_from(["preferred"] if rejected is None else ["preferred", "rejected"]))
        turns.append(
            turn(draw(TEXTS), draw(TEXTS), rejected, branch, inferred_profile=draw(st.just("") | TEXTS), **extra)
        )
        places += [(number, branch) for branch in Turn(**turns[-1]).replies]
    return tree(*turns)


def plainly(conversation: Conversation, number: int) -> list[float]:
    """drift, reply repetition, user repetition, leakage of one turn."""
    this, path = conversation.turns[number], conversation.path(number)

    def cosine(a, b):
        counts = [np.array([text.count(word) for word in sorted({*a, *b})], float) for text in (a, b)]
        norm = np.linalg.norm(counts[0]) * np.linalg.norm(counts[1])
        return counts[0] @ counts[1] / norm if norm else math.nan

    def grams(text):
        told = words(text)
        return [tuple(told[k : k + 4]) for k in range(len(told) - 3)]

    def repeated(texts, earlier):
        known = {gram for text in earlier for gram in grams(text)}
        mine = [gram for text in texts for gram in grams(text)]
        return sum(gram in known for gram in mine) / len(mine) if mine and path else math.nan

    before = [conversation.turns[path[-1][0]].user, conversation.turns[path[-1][0]].reply(path[-1][1])] if path else []
    told = set(content_words(" ".join([this.user, *(conversation.turns[k].user for k, _ in path)])))
    parts = [set(content_words(part)) for part in sentences(PERSONA.profile) + sentences(PERSONA.personality)]
    secret = [
        part
        for part in parts
        if len(part) > 1
        and len(part & told) < 0.6 * len(part)
        and len(part & set(content_words(this.inferred_profile))) < 0.6 * len(part)
    ]
    leaky = [any(len(p & set(content_words(text))) >= 0.6 * len(p) for p in secret) for text in this.replies.values()]
    return [
        1 - cosine(content_words(this.user), content_words(" ".join(before))) if path else math.nan,
        repeated(this.replies.values(), [conversation.turns[k].reply(branch) for k, branch in path]),
        repeated([this.user], [conversation.turns[k].user for k, _ in path]),
        sum(leaky) / len(leaky),
    ]


@settings(max_examples=20, deadline=None)
@given(st.lists(trees(), min_size=1, max_size=4))
def test_equals_the_plain_reference_whatever_the_batches(tree_list):
    measured = measure(tree_list)
    for one, measures in zip(tree_list, measured.conversations, strict=True):
        table = np.array([plainly(one, number) for number in range(len(one.turns))])
        known = ~np.isnan(table)
        means = np.where(known, table, 0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
        np.testing.assert_allclose(astuple(measures)[:4], means, atol=1e-9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "BATCH", 1)
        again = measure(tree_list)
    assert again.leaks == measured.leaks
    np.testing.assert_allclose(
        [astuple(one) for one in [*again.conversations, *again.turns, again.overall]],
        [astuple(one) for one in [*measured.conversations, *measured.turns, measured.overall]],
    )
