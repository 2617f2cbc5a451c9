"""Conversations → token trees → packed rows, for a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from aloe_jax.conversation import Branch, Conversation
from aloe_jax.data.laying import LaidOut
from aloe_jax.data.messages import MessageTree
from aloe_jax.data.packing import PackingReport, Part, Rows, pack
from aloe_jax.data.settings import Replies
from aloe_jax.data.template import ChatTemplate, UnstableTemplateError
from aloe_jax.data.trees import Beyond, TokenTree
from aloe_jax.errors import AloeError


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
            laid, has_moved = _stable_trees(template, talk, row_length)
        except UnstableTemplateError as error:
            unstable.append(error)
            continue
        moved += has_moved
        kept = _for_stage(laid, replies, where, row_length)
        rewritten += laid.parted and len(kept) > 1
        for tree in kept:
            trees += tree.split(row_length) if talk.joined else [tree]
        progress(count)
    if count == len(unstable):
        raise unstable[0] if unstable else AloeError(f"{where}: no conversations")
    if replies is not None and not trees:
        raise AloeError(
            f"{where}: no reply is to be learned from: all are marked (weight 0, train false); mend the file"
        )
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


def _stable_trees(template: ChatTemplate, talk: MessageTree, row_length: int) -> tuple[LaidOut, bool]:
    """The trees, and whether its system message had to move for them (some templates show it in a prompt only)."""
    try:
        return template.laid_out(talk, row_length), False
    except UnstableTemplateError:
        moved = talk.system_in_user()
        if moved is None:
            raise
        return template.laid_out(moved, row_length), True


def _for_stage(laid: LaidOut, replies: Replies | None, where: str | Path, row_length: int) -> list[TokenTree]:
    """The trees with what counts in this stage, without those in which nothing does.

    What no row could hold is counted: as `beyond` the one tree that there is, or as trees without nodes.
    """
    left_out = [_beyond(laid, number, replies, where) for number in laid.beyond]
    if laid.parted:
        kept = [_counting(tree, laid, replies, where, row_length) for tree in laid.trees]
        none = [TokenTree(laid.talk.id, (), (), each) for each in left_out if each.units]
        return [*(tree for tree in kept if tree is not None), *none]
    units = sum(each.units for each in left_out)
    made = _counting(laid.trees[0], laid, replies, where, row_length, units > 0)
    if made is None or not (left_out or laid.unread):
        return [] if made is None else [made]
    tokens = int(laid.rate * laid.unread) + sum(each.tokens for each in left_out)
    turns = max((each.turns for each in left_out if each.units or replies is None), default=0)
    return [replace(made, beyond=Beyond(tokens, turns, units))]


def _counting(
    tree: TokenTree, laid: LaidOut, replies: Replies | None, where: str | Path, row_length: int, more: bool = False
) -> TokenTree | None:
    """The tree with what counts in this stage; None where nothing does and there is no `more` that is left out."""
    if replies is None:
        _check_pairs(tree, row_length)
        return tree if tree.pairs or more else None
    wanted = [
        place
        for place, node in enumerate(tree.nodes)
        if node.scored and _is_wanted(laid.talk, node.source, node.branch, replies, where)
    ]
    return tree.keep_replies(wanted, laid.before if more else ()) if wanted or more else None


def _beyond(laid: LaidOut, number: int, replies: Replies | None, where: str | Path) -> Beyond:
    """What counts in this stage of an exchange that is in no tree."""
    exchange = laid.talk.exchanges[number]
    judged = [which for which, reply in enumerate(exchange.replies) if reply.branch is not None]
    if replies is None:
        paired = {which for choice in exchange.choices for which in (choice.preferred, choice.rejected)}
        alone = 0 if laid.parted and not exchange.choices else sum(which not in paired for which in judged)
        units, shown = len(exchange.choices) + alone, set(judged)
    else:
        shown = {
            which for which in judged if _is_wanted(laid.talk, number, exchange.replies[which].branch, replies, where)
        }
        units = len(shown)
    characters = sum(len(message["content"]) for message in exchange.asked)
    shown |= laid.answered.get(number, set())
    characters += sum(len(exchange.replies[which].text) for which in shown)
    return Beyond(int(laid.rate * characters + 1), laid.depth[number] + 1, units)


def _check_pairs(tree: TokenTree, row_length: int) -> None:
    for pair in tree.pairs:
        preferred, rejected = (tree.nodes[node] for node in (pair.preferred, pair.rejected))
        if max(preferred.scored, rejected.scored) > row_length:
            continue  # it is in no row, and perhaps was not read to its end
        for name, node in (("preferred", preferred), ("rejected", rejected)):
            if node.scored < 2:  # the end of turn alone
                raise AloeError(f"{pair.where}: the {name} reply is empty; remove the record or mend it")
        if preferred.tokens[: preferred.scored] == rejected.tokens[: rejected.scored]:
            raise AloeError(
                f"{pair.where}: the preferred and the rejected reply are the same tokens, so there is nothing to "
                "prefer; remove the record or mend it"
            )


def _is_wanted(talk: MessageTree, exchange: int, branch: Branch | None, replies: Replies, where: str | Path) -> bool:
    if replies != "plain":
        return replies in ("both", branch)
    plain = talk.exchanges[exchange].plain
    if plain is None:
        raise AloeError(
            f"{where}: {talk.where}, turn {exchange + 1}: the data does not record which reply "
            "was written without the persona hint; use sft.replies=preferred or both"
        )
    return branch == plain
