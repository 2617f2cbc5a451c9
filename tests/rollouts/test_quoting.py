"""What of a persona is recovered, and what a reply gives away, by words."""

import random

import pytest

from aloe_jax.conversation import Persona
from aloe_jax.llm.world import persona_texts
from aloe_jax.rollouts.quoting import leaked, recovered
from aloe_jax.speech import sentences

PERSONA = Persona(
    id="p",
    profile="She lives in Porto with two cats. She bakes rye bread on Sundays.",
    personality="Warm. Hates queues.",
)


@pytest.mark.parametrize(
    ("induced", "share"),
    [
        ("", 0.0),
        ("She bakes rye bread on Sundays.", 0.25),
        ("bakes rye bread", 0.25),
        ("She lives in Porto with two cats. She bakes rye bread on Sundays.\nWarm. Hates queues.", 1.0),
        ("Hates queues. Hates queues.", 0.25),
        ("… — !", 0.0),
        ("She is at it.", 0.0),
        ("She plays chess.", 0.0),
        ("Lives in Porto with two dogs and bakes.", 0.0),
    ],
)
def test_recovered_is_the_share_of_sentences_that_are_repeated(induced, share):
    assert recovered(induced, PERSONA) == share


def test_of_the_simulated_personas_every_sentence_counts_once():
    draw = random.Random(2)
    for _ in range(20):
        persona = Persona(
            id="p", profile=persona_texts.write_profile(draw), personality=persona_texts.write_personality(draw)
        )
        own = [*sentences(persona.profile), *sentences(persona.personality)]
        known = draw.sample(own, 7)
        assert recovered(" ".join(known), persona) == pytest.approx(7 / len(own))
        assert recovered(f"{persona.profile}\n{persona.personality}", persona) == 1.0


@pytest.mark.parametrize(
    ("reply", "said", "share"),
    [
        ("Good morning. What can I do?", [], 0.0),
        ("She bakes rye bread on Sundays.", [], 1.0),
        ("Good morning. She bakes rye bread on Sundays.", [], 0.5),
        ("As you bake rye bread on Sundays, try a new oven.", [], 0.0),  # three of four telling words
        ("You, who bakes rye bread on Sundays, may try a new oven.", [], 1.0),
        ("She bakes rye bread on Sundays.", ["I bake bread, mostly rye."], 0.0),
        ("She bakes rye bread on Sundays.", ["I like bread."], 1.0),
        ("You like Porto, and cats.", [], 0.0),
        ("Warm.", [], 0.0),
        ("Hates queues.", [], 1.0),
        ("", [], 0.0),
    ],
)
def test_leaked_is_what_a_reply_repeats_before_the_user_has_said_it(reply, said, share):
    assert leaked(reply, PERSONA, said) == share
