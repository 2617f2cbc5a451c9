"""Token trees → rows of equal length: first-fit decreasing, several trees a row.

A tree is in a row whole, every token once, or (`paths`) as the paths to its replies, which are trees without
branches: the prompt of every reply once more, for attention that knows segments of a row but no trees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aloe_jax.data.bins import best_row_length, first_fit
from aloe_jax.data.settings import Packing
from aloe_jax.data.trees import Node, TokenTree
from aloe_jax.errors import AloeError


@dataclass(frozen=True)
class Rows:
    """Packed rows. N rows of T tokens, at most R - 1 replies and P pairs a row; arrays are int32.

    Replies of a row are numbered from 1; number 0 is "none". Padding tokens see only themselves.
    """

    tokens: np.ndarray  # [N, T]
    positions: np.ndarray  # [N, T] depth on the token's own path
    subtree_end: np.ndarray  # [N, T] query q sees key k iff k <= q < subtree_end[k]
    parent: np.ndarray  # [N, T] index of the token before this one on its path
    reply: np.ndarray  # [N, T] number of the reply that the token is scored for
    scored: np.ndarray  # [N, S] indices of the tokens that count for a reply, in order; then zeros, which do not
    pairs: np.ndarray  # [N, P, 2] reply numbers: preferred, rejected
    pair_turn: np.ndarray  # [N, P] 1-based turn of the pair, 0 where there is no pair
    reply_length: np.ndarray  # [N, R] scored tokens of each reply
    length: np.ndarray  # [N] tokens that are not padding
    reply_ids: list[list[str]]  # [N][replies] what log-probs are stored under, in reply order from 1
    tree_ids: list[list[str]]  # [N][trees]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def replies(self) -> int:
        """R: one more than the largest number of replies in a row."""
        return self.reply_length.shape[1]


@dataclass(frozen=True)
class Part:
    """The rows of one source of a mixture."""

    name: str
    start: int
    stop: int
    weight: float = 1.0  # passes over them in an epoch


WELL_FILLED = 0.9  # share of the rows below which a better row length is looked for


@dataclass(frozen=True)
class PackingReport:
    """What became of the trees."""

    trees: int
    rows: int
    tokens: int
    replies: int
    pairs: int
    fill: float  # share of row positions that hold a token
    shortened: int  # trees that lost turns from the end
    turns_lost: int
    skipped: int  # trees of which no reply that counts fits a row
    lengths: np.ndarray = field(repr=False, compare=False)  # tokens of every tree, as long as it came
    better: tuple[int, float] | None = None  # a row length and how full its rows would be, where these are not

    def __str__(self) -> str:
        text = (
            f"{self.trees} trees, {self.replies} replies, {self.pairs} pairs, {self.tokens} tokens "
            f"in {self.rows} rows ({self.fill:.1%} full)"
        )
        if self.better is not None:
            text += f"; rows of {self.better[0]:,} would be {self.better[1]:.0%} full"
        if self.shortened:
            text += f"; {self.shortened} trees lost {self.turns_lost} turns that did not fit a row"
        if self.skipped:
            text += f"; {self.skipped} trees skipped: not even their first reply fits a row"
        return text


SUMMED = ("trees", "rows", "tokens", "replies", "pairs", "shortened", "turns_lost", "skipped")


def total(reports: Sequence[PackingReport], longest: int | None = None, least: int = 1) -> PackingReport:
    """One report of several sources. `longest`: up to which row length a better one is looked for (None: not).

    `least`: so many rows it has to leave.
    """
    sums = {name: sum(getattr(report, name) for report in reports) for name in SUMMED}
    room = sum(report.tokens / report.fill for report in reports)
    lengths = [report.lengths for report in reports]
    made = PackingReport(**sums, fill=sums["tokens"] / room, lengths=np.concatenate(lengths))
    if longest is None or made.fill >= WELL_FILLED:
        return made
    best = best_row_length(lengths, longest, least)
    return replace(made, better=best) if best is not None and best[1] > made.fill else made


def pack(trees: Sequence[TokenTree], row_length: int, packing: Packing = "trees") -> tuple[Rows, PackingReport]:
    """Lay trees out in rows of `row_length` tokens, longest first, every tree in the first row with room.

    A tree longer than a row loses whole turns from its end; one whose first turn does not fit is skipped.
    Both are counted in the report. Raises AloeError when no tree is left.
    """
    rows, (report,) = pack_sources({"": trees}, row_length, packing)
    return rows, report


def pack_sources(
    sources: Mapping[str, Sequence[TokenTree]], row_length: int, packing: Packing = "trees"
) -> tuple[Rows, list[PackingReport]]:
    """Like `pack` for several sources: rows of their own, one source after the other, in arrays of one shape.

    With `paths` the replies of a pair are in one row, both after a prompt of its own; subtree_end is then the same
    for all tokens of a path and for no others, so that it numbers segments.
    """
    units = {name: [_units(tree, packing) for tree in trees] for name, trees in sources.items()}
    fitted = {
        name: [[(unit, unit.fit(row_length)) for unit in tree] for tree in trees] for name, trees in units.items()
    }
    members: list[list[TokenTree]] = []
    ends: list[int] = []
    for name, trees in fitted.items():
        kept = sorted((fit for tree in trees for _, fit in tree if fit is not None), key=lambda tree: -tree.length)
        if not kept:
            longest = max((unit.whole for tree in trees for unit, _ in tree), default=0)
            whose = f" of {name}" if name else ""
            raise AloeError(
                f"data.row_length: none of {len(trees)} trees{whose} fits a row of {row_length} tokens "
                f"(the longest has {longest}); raise data.row_length"
            )
        bins = first_fit([tree.length for tree in kept], row_length)
        filled: list[list[TokenTree]] = [[] for _ in range(1 + max(bins))]
        for tree, row in zip(kept, bins, strict=True):
            filled[row].append(tree)
        members += filled
        ends.append(len(members))
    rows = rows_of(members, row_length)
    reports = [
        _report(rows, slice(start, stop), trees)
        for start, stop, trees in zip([0, *ends], ends, fitted.values(), strict=False)
    ]
    return rows, reports


def without_branches(rows: Rows) -> bool:
    """Whether every tree in the rows is one path, so that subtree_end numbers segments."""
    own = np.arange(rows.parent.shape[1])
    return bool(((rows.parent == own) | (rows.parent == own - 1)).all())


def _units(tree: TokenTree, packing: Packing) -> list[TokenTree]:
    """What of a tree is in one row: all of it, or of its paths those whose replies are compared."""
    if packing == "trees":
        return [tree]
    group = {index: [index] for index, node in enumerate(tree.nodes) if node.scored}
    for pair in tree.pairs:
        one, other = group[pair.preferred], group[pair.rejected]
        if one is not other:
            one += other
            group.update(dict.fromkeys(other, one))
    groups = {id(replies): sorted(replies) for replies in group.values()}
    return [*(_paths(tree, replies) for replies in groups.values()), *tree.unlaid()]


def _paths(tree: TokenTree, replies: Sequence[int]) -> TokenTree:
    """The paths to these replies, one after the other."""
    nodes: list[Node] = []
    new_index: dict[int, int] = {}
    for reply in replies:
        last = tree.nodes[reply]
        prompt: list[int] = []
        above = last.parent
        while above >= 0:
            prompt[:0] = tree.nodes[above].tokens
            above = tree.nodes[above].parent
        if prompt:
            nodes.append(Node(-1, prompt, turn=last.turn))
        new_index[reply] = len(nodes)
        nodes.append(replace(last, parent=len(nodes) - 1 if prompt else -1))
    pairs = [
        replace(pair, preferred=new_index[pair.preferred], rejected=new_index[pair.rejected])
        for pair in tree.pairs
        if pair.preferred in new_index
    ]
    return TokenTree(tree.id, tuple(nodes), tuple(pairs))


def _report(rows: Rows, part: slice, trees: Sequence[Sequence[tuple[TokenTree, TokenTree | None]]]) -> PackingReport:
    # Whole trees lose their last turns; a path is there or not, and they are the turns of their tree.
    lost = [sum(unit.turns - fit.turns if fit is not None else 1 for unit, fit in tree) for tree in trees]
    kept = [any(fit is not None for _, fit in tree) for tree in trees]
    return PackingReport(
        trees=sum(kept),
        rows=part.stop - part.start,
        tokens=int(rows.length[part].sum()),
        replies=int((rows.reply_length[part] > 0).sum()),
        pairs=int((rows.pair_turn[part] > 0).sum()),
        fill=float(rows.length[part].mean() / rows.tokens.shape[1]),
        shortened=sum(turns > 0 for turns, is_kept in zip(lost, kept, strict=True) if is_kept),
        turns_lost=sum(turns for turns, is_kept in zip(lost, kept, strict=True) if is_kept),
        skipped=len(trees) - sum(kept),
        lengths=np.array([unit.whole for tree in trees for unit, _ in tree], np.int32),
    )


SCORED = 64  # the number of scored tokens a row is rounded up to a multiple of this


def rows_of(members: Sequence[Sequence[TokenTree]], row_length: int) -> Rows:
    """Rows of `row_length` tokens; `members` are the trees of every row, one after the other, which have to fit."""
    n = len(members)
    max_replies = max(sum(1 for tree in row for node in tree.nodes if node.scored) for row in members)
    max_pairs = max(sum(len(tree.pairs) for tree in row) for row in members)
    max_scored = max(sum(node.scored for tree in row for node in tree.nodes) for row in members)
    own = np.arange(row_length, dtype=np.int32)
    rows = Rows(
        tokens=np.zeros((n, row_length), np.int32),
        positions=np.zeros((n, row_length), np.int32),
        subtree_end=np.tile(own + 1, (n, 1)),
        parent=np.tile(own, (n, 1)),
        reply=np.zeros((n, row_length), np.int32),
        scored=np.zeros((n, min(row_length, -(-max_scored // SCORED) * SCORED)), np.int32),
        pairs=np.zeros((n, max_pairs, 2), np.int32),
        pair_turn=np.zeros((n, max_pairs), np.int32),
        reply_length=np.zeros((n, max_replies + 1), np.int32),
        length=np.array([sum(tree.length for tree in row) for row in members], np.int32),
        reply_ids=[[] for _ in range(n)],
        tree_ids=[[tree.id for tree in row] for row in members],
    )
    for index, row in enumerate(members):
        start = pair = 0
        for tree in row:
            numbers = _write(rows, index, start, tree)
            start += tree.length
            for judged in tree.pairs:
                rows.pairs[index, pair] = numbers[judged.preferred], numbers[judged.rejected]
                rows.pair_turn[index, pair] = judged.turn + 1
                pair += 1
        # A row's first token has no token before it, so it is never scored, and its number is free to mean "none".
        scored = np.flatnonzero(rows.reply[index])
        rows.scored[index, : len(scored)] = scored
    return rows


def _write(rows: Rows, index: int, start: int, tree: TokenTree) -> list[int]:
    """Write the tokens of a tree into a row from `start` on; returns the reply number of every node, or 0."""
    count = len(tree.nodes)
    sizes = np.array([len(node.tokens) for node in tree.nodes], np.int32)
    bounds = np.zeros(count + 1, np.int32)
    np.cumsum(sizes, out=bounds[1:])
    bounds += start
    ends = bounds[1:].tolist()
    depth = [0] * count  # tokens on the path before the node
    before = bounds[:-1].tolist()  # the token before the node; at a root its own first one, which is never scored
    numbers = [0] * count
    for i, node in enumerate(tree.nodes):
        if node.parent >= 0:
            depth[i] = depth[node.parent] + len(tree.nodes[node.parent].tokens)
            before[i] = int(bounds[node.parent + 1]) - 1
        if node.scored:
            rows.reply_ids[index].append(node.id)
            numbers[i] = len(rows.reply_ids[index])
            rows.reply_length[index, numbers[i]] = node.scored
    for i in range(count - 1, -1, -1):  # children before parents
        parent = tree.nodes[i].parent
        if parent >= 0:
            ends[parent] = max(ends[parent], ends[i])
    owner = np.repeat(np.arange(count), sizes)
    span = slice(start, start + tree.length)
    token = np.arange(span.start, span.stop, dtype=np.int32)
    within = token - bounds[owner]
    scored = np.array([node.scored for node in tree.nodes], np.int32)[owner]
    rows.tokens[index, span] = np.concatenate([np.asarray(node.tokens, np.int32) for node in tree.nodes])
    rows.positions[index, span] = np.array(depth, np.int32)[owner] + within
    rows.subtree_end[index, span] = np.array(ends, np.int32)[owner]
    rows.parent[index, span] = np.where(within == 0, np.array(before, np.int32)[owner], token - 1)
    rows.reply[index, span] = np.where(within < scored, np.array(numbers, np.int32)[owner], 0)
    return numbers
