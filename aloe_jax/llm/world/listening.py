"""How the simulated user takes a reply: he opens up to one that suits him, and is curt after one that does not.

The user rates a reply as the judge does (rubric.py), and a generic one on the topic leaves him as he was:

    off the topic, or unreadable      curt, and he repeats his question
    below a generic reply             curt: something untrue, more clashes with his traits than fits, too long
    as good as a generic reply        at ease
    better                            open: uses a fact of his, or fits his traits more than it clashes

So what is known of him later depends on what is said to him earlier. What follows from a reaction is in
user_messages.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aloe_jax.llm.world.persona_texts import Facts, Poles
from aloe_jax.llm.world.replies import read_reply
from aloe_jax.llm.world.rubric import GENERIC, assess, on_topic
from aloe_jax.llm.world.user_messages import AT_EASE, Reaction, hear, question_of


def react(history: Sequence[Mapping[str, str]], facts: Facts, poles: Poles) -> Reaction:
    """The user's reaction to the last message of a history, if that is a reply to him. Takes any text; never raises.

    `history` holds messages with `role` (user, assistant) and `content`; `facts` and `poles` are the user's own.
    """
    if len(history) < 2 or (history[-2]["role"], history[-1]["role"]) != ("user", "assistant"):
        return AT_EASE
    said, reply = history[-2]["content"], history[-1]["content"]
    read, asked = read_reply(reply), hear(said).asked
    if not on_topic(asked, read):
        return Reaction("curt", again=question_of(said))
    score, _ = assess(asked, facts, poles, reply)
    if score < GENERIC:
        return Reaction("curt")
    return Reaction("open" if score > GENERIC else "at ease", inquiry=read.inquiry)
