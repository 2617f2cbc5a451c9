"""Rollouts of made-up tokens and rewards."""

import numpy as np

from aloe_jax.conversation import Persona
from aloe_jax.rollouts.rollout import Group, Rollout, Sibling

STOP = 1
PERSONA = Persona(id="p", profile="Has a dog.", personality="Calm.")


def random_rollout(random, name, turns=3, group=3, vocab=97, longest=5, dropped=0.0, cut=0.2, branches=1):
    """A rollout whose log-probs are made up as well; `dropped`, `cut`: shares of groups and of replies.

    `branches`: how many replies of the first group are continued.
    """
    groups = []
    places = [None] if turns else []
    for after in places:  # which grows
        turn = 0 if after is None else groups[after[0]].turn + 1
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
            tuple(random.permutation(group)[: branches if turn == 0 else 1].tolist()),
            after,
            turn,
        )
        if random.random() >= dropped:
            made.rewards = random.integers(1, 6, group).astype(np.float64)
            made.components = [{"judge": float(value)} for value in made.rewards]
        else:
            made.dropped = "judge: blocked"
        if turn + 1 < turns:
            places += [(len(groups), g) for g in made.continued]
        groups.append(made)
    return Rollout(name, PERSONA, groups)


def paths(rollout):
    """Of every reply by id: all tokens up to its end, and how many of them are its own."""
    found, closed = {}, {None: []}
    for number, group in enumerate(rollout.groups):
        prompt = [*closed[group.after], *group.prompt]
        for g, sibling in enumerate(group.siblings):
            found[f"{rollout.id}/{number}/{g}"] = ([*prompt, *sibling.tokens], len(sibling.tokens))
            closed[number, g] = [*prompt, *sibling.tokens] + [STOP] * (not sibling.ended)
    return found
