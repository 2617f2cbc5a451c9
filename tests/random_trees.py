"""Token trees of random tokens, shaped like conversations."""

import numpy as np

from aloe_jax.data.trees import Node, Pair, TokenTree

USER, REPLY = 40, 60  # tokens of an average user message and reply


def draw_tree(
    random: np.random.Generator, turns: int, vocab: int, name: str, user: int = USER, reply: int = REPLY
) -> TokenTree:
    """A caterpillar of `turns` turns with lengths around those of real conversations."""
    nodes: list[Node] = []
    pairs: list[Pair] = []
    parent = -1

    def text(length: int) -> tuple[int, ...]:
        return tuple(random.integers(1, vocab, max(2, round(length * random.uniform(0.7, 1.3)))).tolist())

    for turn in range(turns):
        nodes.append(Node(parent, text(user), turn=turn))
        prompt = len(nodes) - 1
        for side in ("preferred", "rejected"):
            tokens = text(reply)
            nodes.append(Node(prompt, tokens, len(tokens), turn, f"{name}/{turn}/{side}"))
        pairs.append(Pair(turn, prompt + 1, prompt + 2))
        parent = prompt + 2
    return TokenTree(name, tuple(nodes), tuple(pairs))
