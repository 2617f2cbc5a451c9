"""Conversations → token trees → packed rows, for a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from aloe_jax.conversation import Conversation
from aloe_jax.data.messages import MessageTree
from aloe_jax.data.packing import PackingReport, Part, Rows, pack
from aloe_jax.data.template import ChatTemplate, UnstableTemplateError
from aloe_jax.data.trees import Node, TokenTree
from aloe_jax.errors import AloeError

Replies = Literal["preferred", "plain", "both"]


@dataclass(frozen=True)
class Prepared:
    """Rows of one split and what became of its conversations, source by source and in all."""

    rows: Rows
    report: PackingReport
    parts: tuple[Part, ...]  # the sources' rows
    reports: tuple[PackingReport, ...]  # the sources'

    def describe(self) -> str:
        """The report as text, with a line for each of several sources."""
        if len(self.parts) == 1:
            return str(self.report)
        lines = [f"{self.report}"]
        for part, report in zip(self.parts, self.reports, strict=True):
            lines.append(f"  {part.weight:g} x {part.name}: {report}")
        return "\n".join(lines)


def prepare(
    conversations: Sequence[Conversation | MessageTree],
    template: ChatTemplate,
    row_length: int,
    replies: Replies | None,
    where: str | Path,
) -> Prepared:
    """Token trees of `conversations`, packed: `token_trees` and `pack` as one, for a single source."""
    rows, report = pack(token_trees(conversations, template, row_length, replies, where), row_length)
    return Prepared(rows, report, (Part(str(where), 0, len(rows)),), (report,))


def token_trees(
    talks: Iterable[Conversation | MessageTree],
    template: ChatTemplate,
    row_length: int,
    replies: Replies | None,
    where: str | Path,
    progress: Callable[[int], None] = lambda done: None,
) -> list[TokenTree]:
    """Token trees of conversations; `replies` (SFT) scores only those replies, None keeps pairs (DPO).

    Conversations whose template is not prefix-stable over turns are split into one tree a turn, and those that
    cannot be split are skipped; both are counted in a warning, and so are messages that hold the text of a control
    token. Raises AloeError when nothing is left, and in DPO for a pair without a difference. `progress` is told how
    many conversations are done.
    """
    trees: list[TokenTree] = []
    count = rewritten = lookalikes = moved = 0
    unstable: list[UnstableTemplateError] = []
    for count, talk in enumerate(map(MessageTree.of, talks), 1):
        lookalikes += template.lookalikes(talk)
        try:
            made, has_moved = _stable_trees(template, talk)
        except UnstableTemplateError as error:
            unstable.append(error)
            continue
        moved += has_moved
        rewritten += len(made) > 1
        for tree in made:
            kept = _for_stage(tree, talk, replies, where)
            if kept is not None:
                trees += kept.split(row_length) if talk.joined else [kept]
        progress(count)
    if count == len(unstable):
        raise unstable[0] if unstable else AloeError(f"{where}: no conversations")
    if replies is None and not trees:
        raise AloeError(f"{where}: no turn has two replies, so there is nothing to prefer; train `stage: sft` on it")
    if rewritten:
        click.echo(
            f"warning: {where}: the chat template rewrites earlier turns in {rewritten} of {count} "
            "conversations; each of their turns is a tree of its own, which costs several times the tokens",
            err=True,
        )
    if moved:
        click.echo(
            f"warning: {where}: the chat template does not keep a system message where it was when a reply follows; "
            f"in {moved} of {count} conversations it stands before the first user message's text instead",
            err=True,
        )
    if unstable:
        click.echo(f"warning: {len(unstable)} conversations skipped, the first: {unstable[0]}", err=True)
    if lookalikes:
        click.echo(
            f"warning: {where}: {lookalikes} messages hold the text of a control token (such as the template's end of "
            "turn); it is encoded as plain text there",
            err=True,
        )
    return trees


def _stable_trees(template: ChatTemplate, talk: MessageTree) -> tuple[list[TokenTree], bool]:
    """The trees, and whether its system message had to move for them (some templates show it in a prompt only)."""
    try:
        return template.trees(talk), False
    except UnstableTemplateError:
        moved = talk.system_in_user()
        if moved is None:
            raise
        return template.trees(moved), True


def _for_stage(tree: TokenTree, talk: MessageTree, replies: Replies | None, where: str | Path) -> TokenTree | None:
    """The tree with what counts in this stage; None where nothing does."""
    if replies is None:
        _check_pairs(tree)
        return tree if tree.pairs else None
    wanted = [place for place, node in enumerate(tree.nodes) if _is_wanted(talk, node, replies, where)]
    return tree.keep_replies(wanted) if wanted else None


def _check_pairs(tree: TokenTree) -> None:
    for pair in tree.pairs:
        preferred, rejected = (tree.nodes[node] for node in (pair.preferred, pair.rejected))
        for name, node in (("preferred", preferred), ("rejected", rejected)):
            if node.scored < 2:  # the end of turn alone
                raise AloeError(f"{pair.where}: the {name} reply is empty; remove the record or mend it")
        if preferred.tokens[: preferred.scored] == rejected.tokens[: rejected.scored]:
            raise AloeError(
                f"{pair.where}: the preferred and the rejected reply are the same tokens, so there is nothing to "
                "prefer; remove the record or mend it"
            )


def _is_wanted(talk: MessageTree, node: Node, replies: Replies, where: str | Path) -> bool:
    if not node.scored:
        return False
    if replies != "plain":
        return replies in ("both", node.branch)
    plain = talk.exchanges[node.source].plain
    if plain is None:
        raise AloeError(
            f"{where}: {talk.where}, turn {node.source + 1}: the data does not record which reply "
            "was written without the persona hint; use sft.replies=preferred or both"
        )
    return node.branch == plain
