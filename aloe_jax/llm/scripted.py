"""The scripted provider: plays every role in the simulated world, offline, from the inputs and the seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any  # noqa: TID251  every role has inputs of its own

from aloe_jax.errors import AloeError
from aloe_jax.llm.protocol import Completion, Request
from aloe_jax.llm.settings import RoleSettings
from aloe_jax.llm.world import VERSION, listening, persona_texts, replies, rubric, user_messages

OVERLOOKED = 0.05  # chance that the inducer misses a thing that was revealed
MISJUDGED = 0.08  # chance that the verifier prefers the worse reply
VARIANTS = 0.1  # share of near-copies among what the persona writer returns

_Inputs = Mapping[str, Any]  # those of roles.py


class Scripted:
    """A simulated language model: its answer depends on the role, the inputs and the seed alone."""

    name = f"scripted-{VERSION}"

    def __init__(self, role: RoleSettings | None = None) -> None:
        """Nothing of the role's settings matters to a script."""

    def complete(self, request: Request) -> Completion:
        """Answer in role. Raises AloeError for a role that is not simulated."""
        play = _PARTS.get(request.role)
        if play is None:
            raise AloeError(f"role {request.role}: not simulated; choose from {', '.join(_PARTS)}")
        draw = random.Random(f"{request.role} {request.seed}")
        return Completion(json.dumps(play(request.inputs, draw), ensure_ascii=False))


def _persona_writer(inputs: _Inputs, draw: random.Random) -> dict[str, object]:
    write = persona_texts.write_profile if inputs["kind"] == "profile" else persona_texts.write_personality
    examples: Sequence[str] = inputs["examples"]
    texts = [
        persona_texts.write_variant(draw.choice(examples), draw)
        if examples and draw.random() < VARIANTS
        else write(draw)
        for _ in range(inputs["count"])
    ]
    return {"texts": texts}


def _user(inputs: _Inputs, draw: random.Random) -> dict[str, object]:
    facts, poles = _persona(inputs)
    spoken = [message["content"] for message in inputs["history"] if message["role"] == "user"]
    reaction = listening.react(inputs["history"], facts, poles)
    return {"message": user_messages.say(facts, poles, spoken, draw, reaction)}


def _inducer(inputs: _Inputs, draw: random.Random) -> dict[str, object]:
    facts, poles = _persona(inputs)
    kinds, axes = user_messages.infer(user_messages.revealed(inputs["messages"]), facts, poles, OVERLOOKED, draw)
    stated = persona_texts.profile_sentences(inputs["profile"])
    traits = persona_texts.personality_sentences(inputs["personality"])
    return {
        "profile": " ".join([stated[kind] for kind in kinds]),
        "personality": " ".join([traits[axis] for axis in axes]),
    }


def _responder(inputs: _Inputs, draw: random.Random) -> dict[str, object]:
    facts, poles = _persona(inputs)
    if not inputs["hinted"]:
        habits = replies.PLAIN
        # The same seed with and without a hint must not give two replies with the same wording.
        draw.random()
    else:
        habits = replies.FAITHFUL if inputs["faithful"] else replies.HINTED
    return {"reply": replies.respond(_asked(inputs), facts, poles, habits, draw)}


def _verifier(inputs: _Inputs, draw: random.Random) -> dict[str, object]:
    facts, poles = _persona(inputs)
    asked = _asked(inputs)
    first, _ = rubric.assess(asked, facts, poles, inputs["first"])
    second, _ = rubric.assess(asked, facts, poles, inputs["second"])
    better = draw.choice("AB") if first == second else "A" if first > second else "B"
    if draw.random() < MISJUDGED:
        better = "B" if better == "A" else "A"
    return {"reason": f"Simulated: reply {better} suits this user better.", "preferred": better}


def _judge(inputs: _Inputs, draw: random.Random) -> dict[str, object]:
    facts, poles = _persona(inputs)
    score, reason = rubric.assess(_asked(inputs), facts, poles, inputs["reply"])
    return {"reason": f"Simulated rubric: {reason}", "rating": rubric.rating(score)}


def _comparer(inputs: _Inputs, draw: random.Random) -> dict[str, object]:
    facts, poles = _persona(inputs)
    first, second = (rubric.mean_rating(dialogue, facts, poles) for dialogue in inputs["dialogues"])
    better = "tie" if first == second else "A" if first > second else "B"
    return {"reason": f"Simulated rubric: {first:.2f} against {second:.2f} on average.", "preferred": better}


def _persona(inputs: _Inputs) -> tuple[persona_texts.Facts, persona_texts.Poles]:
    return persona_texts.read_profile(inputs["profile"]), persona_texts.read_personality(inputs["personality"])


def _asked(inputs: _Inputs) -> str | None:
    return user_messages.hear(inputs["history"][-1]["content"]).asked if inputs["history"] else None


_PARTS: dict[str, Callable[[_Inputs, random.Random], dict[str, object]]] = {
    "persona_writer": _persona_writer,
    "user": _user,
    "inducer": _inducer,
    "responder": _responder,
    "verifier": _verifier,
    "judge": _judge,
    "comparer": _comparer,
}
