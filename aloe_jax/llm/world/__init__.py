"""A simulated world: people with hidden facts and styles, and the wording in which both show.

Everything in this package is a simulation. It plays the roles of the multi-LLM collaboration offline, from
templates and a seed, with a vocabulary small enough for a model of a million parameters. Its texts are read
back exactly, so a fixed rubric can rate replies. Numbers obtained in it say whether the training learns; they
say nothing about real people or real language models.

fact_wording.py and style.py hold the wording, persona_texts.py writes personas, user_messages.py the user's messages,
replies.py the replies, rubric.py rates them, and listening.py says how the user takes them: what is said to him decides
how much he reveals next. `aloe_jax.llm.scripted` casts them as roles.
"""

from aloe_jax.llm.world.persona_texts import seed_personalities, seed_profiles

__all__ = ["seed_personalities", "seed_profiles"]

# Part of the model name in journals: raise it when any answer of the world changes.
VERSION = 3
