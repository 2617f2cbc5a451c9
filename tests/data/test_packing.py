"""Properties of token trees and rows, over random trees."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe_jax.data.packing import pack, rows_of
from aloe_jax.data.trees import Node, Pair, TokenTree
from aloe_jax.errors import AloeError


def draw_tree(random: np.random.Generator, name: str, max_turns: int = 4) -> TokenTree:
    """A random caterpillar of user and reply nodes with distinct tokens."""
    nodes: list[Node] = []
    pairs: list[Pair] = []
    parent, token = -1, iter(range(1, 10_000))

    def take(n: int) -> tuple[int, ...]:
        return tuple(next(token) for _ in range(n))

    for turn in range(random.integers(1, max_turns + 1)):
        nodes.append(Node(parent, take(random.integers(1, 5)), turn=turn))
        prompt = len(nodes) - 1
        places = []
        for branch in ("first", "second"):
            length = int(random.integers(1, 6))
            nodes.append(
                Node(prompt, take(length), int(random.integers(1, length + 1)), turn, f"{name}/{turn}/{branch}")
            )
            places.append(len(nodes) - 1)
        order = list(random.permutation(places))
        pairs.append(Pair(turn, int(order[0]), int(order[1])))
        parent = places[1]  # the second sibling is continued, so its subtree comes last
    return TokenTree(name, tuple(nodes), tuple(pairs))


def path_of(tree: TokenTree, node: int) -> list[int]:
    """Nodes from the root to `node`."""
    path = []
    while node >= 0:
        path.append(node)
        node = tree.nodes[node].parent
    return path[::-1]


trees = st.integers(0, 2**32 - 1).map(lambda seed: draw_tree(np.random.default_rng(seed), f"t{seed}"))


@given(trees)
def test_mask_equals_ancestry(tree):
    row = rows_of([[tree]], tree.length)
    owner = np.repeat(np.arange(len(tree.nodes)), [len(node.tokens) for node in tree.nodes])
    index = np.arange(tree.length)
    mask = (index[None, :] <= index[:, None]) & (index[:, None] < row.subtree_end)
    ancestors = [set(path_of(tree, node)) for node in range(len(tree.nodes))]
    for query in index:
        for key in index:
            same = owner[query] == owner[key]
            expected = key <= query if same else owner[key] in ancestors[owner[query]]
            assert mask[query, key] == expected


@given(trees)
def test_positions_and_parents_follow_the_path(tree):
    row = rows_of([[tree]], tree.length)
    starts = np.cumsum([0] + [len(node.tokens) for node in tree.nodes])
    for node in range(len(tree.nodes)):
        places = [i for n in path_of(tree, node) for i in range(starts[n], starts[n + 1])]
        assert row.positions[0, places].tolist() == list(range(len(places)))
        assert row.parent[0, places[1:]].tolist() == places[:-1]


@settings(max_examples=60)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=8), st.integers(40, 90))
def test_packing_loses_and_doubles_nothing(seeds, row_length):
    made = [draw_tree(np.random.default_rng(seed), f"t{i}") for i, seed in enumerate(seeds)]
    rows, report = pack(made, row_length)
    kept = [fit for tree in made if (fit := tree.fit(row_length)) is not None]
    assert report.trees == len(kept) and report.skipped == len(made) - len(kept)
    assert sorted(name for row in rows.tree_ids for name in row) == sorted(tree.id for tree in kept)
    assert rows.length.sum() == sum(tree.length for tree in kept) == report.tokens
    replies = {name: node for tree in kept for node in tree.nodes if node.scored for name in [node.id]}
    assert sorted(name for row in rows.reply_ids for name in row) == sorted(replies)
    for row in range(len(rows)):
        for number, name in enumerate(rows.reply_ids[row], start=1):
            scored = rows.tokens[row][rows.reply[row] == number].tolist()
            assert scored == list(replies[name].tokens[: replies[name].scored])
            assert rows.reply_length[row, number] == len(scored)
        padding = np.arange(rows.length[row], row_length)
        assert (rows.subtree_end[row, padding] == padding + 1).all()
        assert (rows.reply[row, padding] == 0).all()
        # Nothing reaches over the end of its own tree.
        assert (rows.subtree_end[row, : rows.length[row]] <= rows.length[row]).all()
    assert report.pairs == sum(len(tree.pairs) for tree in kept) == (rows.pair_turn > 0).sum()


@given(trees)
def test_pairs_name_the_right_replies(tree):
    rows, _ = pack([tree], tree.length)
    for pair, (preferred, rejected) in zip(tree.pairs, rows.pairs[0], strict=False):
        assert rows.reply_ids[0][preferred - 1] == tree.nodes[pair.preferred].id
        assert rows.reply_ids[0][rejected - 1] == tree.nodes[pair.rejected].id


@given(trees)
def test_unwanted_leaves_are_dropped_and_the_path_stays(tree):
    wanted = [pair.preferred for pair in tree.pairs]
    kept = tree.keep_replies(wanted)
    rows, whole = (rows_of([[each]], each.length) for each in (kept, tree))
    scored = {rows.tokens[0, i] for i in np.flatnonzero(rows.reply[0])}
    names = {tree.nodes[node].id for node in wanted}
    numbers = {number for number, name in enumerate(whole.reply_ids[0], 1) if name in names}
    assert scored == {whole.tokens[0, i] for i in np.flatnonzero(whole.reply[0]) if whole.reply[0, i] in numbers}
    ids = {tree.nodes[node].id for node in wanted}
    for node in range(len(kept.nodes)):
        if kept.nodes[node].id in ids:
            original = next(i for i, n in enumerate(tree.nodes) if n.id == kept.nodes[node].id)
            path = [kept.nodes[n].tokens for n in path_of(kept, node)]
            assert path == [tree.nodes[n].tokens for n in path_of(tree, original)]


def test_long_trees_lose_turns_and_are_counted():
    tree = draw_tree(np.random.default_rng(5), "long", max_turns=4)
    assert len(tree.pairs) > 1
    rows, report = pack([tree], tree.length - 1)
    assert report.shortened == 1 and report.turns_lost == 1 and "lost 1 turns" in str(report)
    assert (rows.pair_turn > 0).sum() == len(tree.pairs) - 1


def test_nothing_fits():
    with pytest.raises(AloeError, match=r"data.row_length: none of 1 trees fits a row of 2 tokens"):
        pack([draw_tree(np.random.default_rng(1), "t")], 2)
