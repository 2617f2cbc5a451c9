"""The data of a run: one source or a mixture of several, as rows of one shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import click

from aloe_jax.conversation import shown
from aloe_jax.data.packing import PackingReport, Part, pack_sources, total
from aloe_jax.data.prepare import Prepared, token_trees
from aloe_jax.data.settings import DataSettings, Replies, SourceSettings
from aloe_jax.data.sources import Split, Talks, open_source
from aloe_jax.data.template import ChatTemplate
from aloe_jax.data.trees import TokenTree
from aloe_jax.errors import AloeError

LARGE = 5000  # conversations from which on progress is told


def gather(
    data: DataSettings,
    template: ChatTemplate,
    replies: Replies | None,
    split: Split,
    *,
    longest: int | None = None,
    tell: Callable[[str], None] = click.echo,
) -> Prepared:
    """Read, tokenise and pack one split of all sources.

    `replies`: which replies SFT learns from, None for DPO. `longest`: the row length up to which a better one is
    looked for when training rows are poorly filled (None: not looked for). `tell` is called with lines for a person:
    what was held out, and the progress of large sources. Raises AloeError naming the source, and the record where there
    is one.
    """
    sources = data.mixture or (SourceSettings(path=data.path, limit=data.limit),)
    opened: dict[str, Talks] = {}
    for source in sources:
        if source.path in opened:
            raise AloeError(f"data.mixture: {source.path} is given twice; give it once, with the sum of the weights")
        opened[source.path] = talks = open_source(source, split, data)
        if talks.kind == "chat" and replies is None:
            raise AloeError(
                f"{source.path}: a chat has one reply a turn, so there is nothing to prefer; "
                "leave it to `stage: sft`, or give preferences (prompt, chosen, rejected)"
            )
    trees: dict[str, list[TokenTree]] = {}
    for name, talks in opened.items():
        for remark in talks.remarks:
            tell(remark)
        progress = _progress(f"{split}: {name}", talks.count, tell)
        where = name if split == "train" else f"the validation split of {name}"
        if talks.unused:
            click.echo(f"{where}: fields not used: {_several(talks.unused)}", err=True)
        trees[where] = token_trees(talks.talks, template, data.row_length, replies, where, progress)
    # The training data of a run with one source needs no name.
    packed = {"" if split == "train" and len(trees) == 1 else where: made for where, made in trees.items()}
    rows, reports = pack_sources(packed, data.row_length, data.packing)
    if replies is None:
        for (where, made), report in zip(trees.items(), reports, strict=True):
            _check_pairs(where, made, report, data, sum(each.pairs for each in reports))
    # One row of all that there is would be full, too, but no step could be made of it. Validation has the same rows.
    best = longest if split == "train" else None
    ends = [0]
    for report in reports:
        ends.append(ends[-1] + report.rows)
    parts = tuple(
        Part(source.path, start, stop, source.weight)
        for source, (start, stop) in zip(sources, pairwise(ends), strict=True)
    )
    return Prepared(rows, total(reports, best, max(2, data.rows)), parts, tuple(reports))


def _check_pairs(where: str, trees: Sequence[TokenTree], report: PackingReport, data: DataSettings, pairs: int) -> None:
    """Raise AloeError where no pair at all fits a row, and say so where none of a source does."""
    if report.pairs:
        return
    count = sum(len(tree.pairs) + (0 if tree.beyond is None else tree.beyond.units) for tree in trees)
    said = f"{where}: none of its {count} pairs fits a row of {data.row_length} tokens"
    if not pairs:
        raise AloeError(f"data.row_length: {said}; raise data.row_length, or give shorter conversations")
    click.echo(f"warning: {said}, so nothing is learned from them; raise data.row_length", err=True)


def _several(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _progress(what: str, count: int, tell: Callable[[str], None]) -> Callable[[int], None]:
    """Tells about ten times how many of a large number are done."""

    def told(done: int) -> None:
        if count >= LARGE and done * 10 // count > (done - 1) * 10 // count:
            tell(f"{what}: {done:,} of {count:,} conversations are tokens")

    return told
