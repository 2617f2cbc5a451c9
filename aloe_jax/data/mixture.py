"""The data of a run: one source or a mixture of several, as rows of one shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import click

from aloe_jax.conversation import shown
from aloe_jax.data.packing import Packing, PackingReport, Part, Rows, pack_sources, total
from aloe_jax.data.people import People
from aloe_jax.data.prepare import token_trees
from aloe_jax.data.selection import Selection
from aloe_jax.data.settings import DataSettings
from aloe_jax.data.sources import Split, SplitSource, open_source
from aloe_jax.data.template import ChatTemplate
from aloe_jax.data.trees import TokenTree
from aloe_jax.errors import AloeError

LARGE = 5000  # conversations from which on progress is reported


@dataclass(frozen=True)
class Prepared:
    """Rows of one split and what became of its conversations, source by source and in all."""

    rows: Rows
    report: PackingReport
    parts: tuple[Part, ...]  # the sources' rows
    reports: tuple[PackingReport, ...]  # the sources'
    people: People = field(default_factory=People)  # of all sources

    def describe(self) -> str:
        """The report as text, with a line per source where there are several."""
        if len(self.parts) == 1:
            return str(self.report)
        lines = [f"{self.report}"]
        for part, report in zip(self.parts, self.reports, strict=True):
            lines.append(f"  {part.weight:g} x {part.name}: {report}")
        return "\n".join(lines)


def gather(
    data: DataSettings,
    template: ChatTemplate,
    selection: Selection,
    split: Split,
    *,
    row_length: int,
    packing: Packing = "trees",
    longest: int | None = None,
    show: Callable[[str], None] = click.echo,
) -> Prepared:
    """Read, tokenise and pack one split of all sources in rows of `row_length` tokens.

    `selection`: the replies that are scored. `longest`: the row length up to which a better one is looked for when
    training rows are poorly filled (None: not looked for). `show` is called with lines for a person: what was held out,
    and the progress of large sources. Raises AloeError naming the source, and the record where there is one.
    """
    opened: dict[str, SplitSource] = {}
    for source in data.sources:
        if source.path in opened:
            raise AloeError(f"data.mixture: {source.path} is given twice; give it once, with the sum of the weights")
        opened[source.path] = found = open_source(source, split, data)
        if found.kind == "chat" and selection.pairs:
            raise AloeError(
                f"{source.path}: a chat has one reply a turn, so there is nothing to prefer; "
                "leave it to `stage: sft`, or give preferences (prompt, chosen, rejected)"
            )
    if selection.of_chats is not None and all(found.kind == "chat" for found in opened.values()):
        raise AloeError(f"{', '.join(opened)}: {selection.nothing}")
    trees: dict[str, list[TokenTree]] = {}
    for name, found in opened.items():
        for remark in found.remarks:
            show(remark)
        progress = _progress(f"{split}: {name}", found.count, show)
        where = name if split == "train" else f"the validation split of {name}"
        if found.unused:
            click.echo(f"{where}: fields not used: {_several(found.unused)}", err=True)
        scored = selection.of_chats or selection if found.kind == "chat" else selection
        trees[where] = token_trees(found.trees, template, row_length, scored, where, progress)
    # The training data of a run with one source needs no name.
    packed = {"" if split == "train" and len(trees) == 1 else where: made for where, made in trees.items()}
    rows, reports = pack_sources(packed, row_length, packing)
    if selection.pairs:
        for (where, made), report in zip(trees.items(), reports, strict=True):
            _check_pairs(where, made, report, row_length, sum(report.pairs for report in reports))
    # One row of all that there is would be full, too, but no step could be made of it. Validation has the same rows.
    best = longest if split == "train" else None
    ends = accumulate((report.rows for report in reports), initial=0)
    parts = tuple(
        Part(source.path, start, stop, source.weight)
        for source, (start, stop) in zip(data.sources, pairwise(ends), strict=True)
    )
    people = People.together(found.people for found in opened.values())
    return Prepared(rows, total(reports, best, max(2, data.rows)), parts, tuple(reports), people)


def _check_pairs(where: str, trees: Sequence[TokenTree], report: PackingReport, row_length: int, pairs: int) -> None:
    """Raise AloeError where no pair at all fits a row, and warn where none of a source does."""
    if report.pairs:
        return
    count = sum(len(tree.pairs) + (0 if tree.beyond is None else tree.beyond.units) for tree in trees)
    fault = f"{where}: none of its {count} pairs fits a row of {row_length} tokens"
    if not pairs:
        raise AloeError(f"data.row_length: {fault}; raise data.row_length, or give shorter conversations")
    click.echo(f"warning: {fault}, so nothing is learned from them; raise data.row_length", err=True)


def _several(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _progress(what: str, count: int, show: Callable[[str], None]) -> Callable[[int], None]:
    """Shows about ten times how many of a large number are done."""

    def show_some(done: int) -> None:
        if count >= LARGE and done * 10 // count > (done - 1) * 10 // count:
            show(f"{what}: {done:,} of {count:,} conversations are tokens")

    return show_some
