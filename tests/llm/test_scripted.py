"""The scripted provider: deterministic, and at ease with texts that the world did not write."""

import json

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.llm.protocol import Request
from aloe_jax.llm.scripted import Scripted
from aloe_jax.llm.world import seed_personalities, seed_profiles

PERSONA = {"profile": seed_profiles()[0], "personality": seed_personalities()[0]}
HISTORY = [{"role": "user", "content": "Facts only. I keep a rabbit. What should I cook?"}]
INPUTS = {
    "persona_writer": {"kind": "profile", "examples": seed_profiles(), "count": 5},
    "user": PERSONA | {"history": []},
    "inducer": PERSONA | {"messages": ["Facts only."]},
    "responder": PERSONA | {"history": HISTORY, "hinted": True, "faithful": False},
    "verifier": PERSONA | {"history": HISTORY, "first": "Sure. Try a bowl of tacos.", "second": "Okay."},
    "judge": PERSONA | {"history": HISTORY, "reply": "Sure. Try a bowl of tacos."},
}


def answer(role, inputs, seed=0):
    return json.loads(Scripted().complete(Request(role, inputs, "", "", {}, 0.0, seed)).text)


@pytest.mark.parametrize("role", INPUTS)
def test_the_same_question_has_the_same_answer(role):
    answers = [[answer(role, INPUTS[role], seed) for seed in range(30)] for _ in range(2)]
    assert answers[0] == answers[1]
    if role in ("persona_writer", "user", "responder"):
        assert len({json.dumps(text) for text in answers[0]}) > 15


@pytest.mark.parametrize("role", INPUTS)
def test_texts_of_another_writer_are_taken(role):
    foreign = {
        "profile": "Marta, 41, drives a tram in Porto and sings fado.",
        "personality": "She frets. She is kind, though!",
        "messages": ["Hi there :)", ""],
        "examples": [],
        "first": "*waves*",
        "second": "",
        "reply": "???",
    }
    history = [{"role": "user", "content": "How was your day?"}]
    inputs = INPUTS[role] | {key: value for key, value in foreign.items() if key in INPUTS[role]}
    if "history" in inputs:
        inputs["history"] = history
    assert answer(role, inputs)


def test_the_inducer_quotes_what_was_said_and_no_more():
    profile = "A woman of 42. She keeps a rabbit. She drinks cocoa. Her sport is karate."
    personality = "Dry, direct and brief. Tidy at home. Likes a fixed schedule."
    messages = ["Facts only. My boss drinks cocoa. I keep a rabbit. How can I stay fit?"]
    inputs = {"profile": profile, "personality": personality, "messages": messages}
    answers = [answer("inducer", inputs, seed) for seed in range(200)]
    full = {"profile": "She keeps a rabbit.", "personality": "Dry, direct and brief."}
    assert 0.8 < sum(found == full for found in answers) / 200 < 0.97
    assert all(found[part] in ("", full[part]) for found in answers for part in full)


def test_judging_does_not_depend_on_the_seed():
    assert len({json.dumps(answer("judge", INPUTS["judge"], seed)) for seed in range(20)}) == 1


def test_the_verifier_errs_now_and_then_whatever_the_order():
    inputs = INPUTS["verifier"]
    swapped = inputs | {"first": inputs["second"], "second": inputs["first"]}
    good = inputs | {"first": "Sure. Try a bowl of leftovers.", "second": "Okay."}
    for question, right in ((good, "A"), (good | {"first": "Okay.", "second": good["first"]}, "B")):
        share = sum(answer("verifier", question, seed)["preferred"] == right for seed in range(400)) / 400
        assert 0.88 < share < 0.96
    assert answer("verifier", inputs)["preferred"] in "AB" and answer("verifier", swapped)["preferred"] in "AB"


def test_an_unknown_role_is_told():
    with pytest.raises(AloeError, match="role poet: not simulated"):
        answer("poet", {})
