"""Draws the figures of the documentation, from the code that they explain: `make docs` runs it."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np

from aloe_jax.data.packing import rows_of
from aloe_jax.data.trees import Node, TokenTree

PAPER, INK, USER, DROPPED, KEPT = "#ffffff", "#222222", "#8a8a8a", "#d9822b", "#2b6cb0"


def toy() -> tuple[TokenTree, list[str], list[str]]:
    """A conversation of two turns, with a colour and a word for every token."""
    said = [
        (-1, ["what", "to", "cook?"], False, USER),
        (0, ["a", "salad", "■"], True, DROPPED),
        (0, ["spicy", "soup", "■"], True, KEPT),
        (2, ["not", "hot!"], False, USER),
        (3, ["more", "chili", "■"], True, DROPPED),
        (3, ["mild", "one", "■"], True, KEPT),
    ]
    nodes = tuple(
        Node(parent, list(range(len(words))), scored=len(words) if counts else 0, turn=int(i > 2))
        for i, (parent, words, counts, _) in enumerate(said)
    )
    words = [word for _, some, _, _ in said for word in some]
    colours = [colour for _, some, _, colour in said for _ in some]
    return TokenTree("toy", nodes, ()), words, colours


def draw_mask(path: Path) -> None:
    """Which tokens of one tree row see which: black squares are seen keys."""
    tree, words, colours = toy()
    row = rows_of([[tree]], len(words))
    index = np.arange(len(words))
    sees = (index[None, :] <= index[:, None]) & (index[:, None] < row.subtree_end)
    figure, axes = plt.subplots(figsize=(6, 6), facecolor=PAPER)
    for query, key in zip(*np.nonzero(sees), strict=True):
        axes.add_patch(plt.Rectangle((key - 0.42, query - 0.42), 0.84, 0.84, color=colours[key]))
    axes.set(xlim=(-0.6, len(words) - 0.4), ylim=(len(words) - 0.4, -0.6), aspect="equal")
    axes.set_xticks(index, words, rotation=90, fontsize=9)
    axes.set_yticks(index, words, fontsize=9)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        for label, colour in zip(labels, colours, strict=True):
            label.set_color(colour)
    axes.set_xlabel("key")
    axes.set_ylabel("query")
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    assets = Path(__file__).parent / "assets"
    assets.mkdir(exist_ok=True)
    matplotlib.rcParams["svg.hashsalt"] = "aloe-jax"  # the same file at every run
    draw_mask(assets / "tree_mask.svg")
