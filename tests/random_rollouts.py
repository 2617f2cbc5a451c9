"""Rollouts of made-up tokens and rewards."""

import numpy as np

from aloe_jax.conversation import Persona
from aloe_jax.rollouts.rollout import Group, Rollout, Sibling

STOP = 1
PERSONA = Persona(id="p", profile="Has a dog.", personality="Calm.")


def random_rollout(random, name, turns=3, group=3, vocab=97, longest=5, dropped=0.0, cut=0.2):
    """A rollout whose log-probs are made up as well; `dropped`, `cut`: shares of groups and of replies."""
    groups = []
    for turn in range(turns):
        siblings = []
        for _ in range(group):
            ended = random.random() >= cut
            tokens = random.integers(2, vocab, random.integers(1, longest)).tolist() + [STOP] * ended
            logps = (-random.gamma(2.0, 1.0, len(tokens))).tolist()
            siblings.append(Sibling(tuple(tokens), tuple(logps), " ".join(map(str, tokens)), ended))
        made = Group(
            f"message {turn}",
            tuple(random.integers(2, vocab, random.integers(1, 4)).tolist()),
            tuple(siblings),
            int(random.integers(group)),
        )
        if random.random() >= dropped:
            made.rewards = random.integers(1, 6, group).astype(np.float64)
            made.components = [{"judge": float(value)} for value in made.rewards]
        else:
            made.dropped = "judge: blocked"
        groups.append(made)
    return Rollout(name, PERSONA, groups)


def paths(rollout):
    """Of every reply by id: all tokens up to its end, and how many of them are its own."""
    found, before = {}, []
    for turn, group in enumerate(rollout.groups):
        prompt = [*before, *group.prompt]
        for number, sibling in enumerate(group.siblings):
            found[f"{rollout.id}/{turn}/{number}"] = ([*prompt, *sibling.tokens], len(sibling.tokens))
        taken = group.siblings[group.continued]
        before = [*prompt, *taken.tokens] + [STOP] * (not taken.ended)
    return found
