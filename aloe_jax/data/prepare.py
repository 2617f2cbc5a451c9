"""Message trees → token trees, with what a stage scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import click

from aloe_jax.conversation import Branch
from aloe_jax.data.laying import LaidOut
from aloe_jax.data.messages import MessageTree
from aloe_jax.data.selection import Selection
from aloe_jax.data.template import ChatTemplate, UnstableTemplateError
from aloe_jax.data.trees import Beyond, TokenTree
from aloe_jax.errors import AloeError


def token_trees(
    conversations: Iterable[MessageTree],
    template: ChatTemplate,
    row_length: int,
    selection: Selection,
    where: str | Path,
    progress: Callable[[int], None] = lambda done: None,
) -> list[TokenTree]:
    """Token trees of conversations, in which the replies of the `selection` are scored.

    Conversations whose template is not prefix-stable over turns are split into one tree per turn, and those that
    cannot be split are skipped; both are counted in a warning, and so are messages that contain the text of a control
    token. Raises AloeError when nothing is left, and for a pair without a difference. `progress` is called with the
    number of conversations that are done.
    """
    trees: list[TokenTree] = []
    stage = _Stage(selection, where, row_length)
    count = rewritten = lookalikes = moved = 0
    unstable: list[UnstableTemplateError] = []
    for count, conversation in enumerate(conversations, 1):
        lookalikes += template.lookalikes(conversation)
        try:
            laid, has_moved = _stable_trees(template, conversation, row_length)
        except UnstableTemplateError as error:
            unstable.append(error)
            continue
        moved += has_moved
        kept = stage.trees(laid)
        rewritten += laid.parted and len(kept) > 1
        for tree in kept:
            trees += tree.split(row_length) if conversation.joined else [tree]
        progress(count)
    if count == len(unstable):
        raise unstable[0] if unstable else AloeError(f"{where}: no conversations")
    if not trees:
        raise AloeError(f"{where}: {selection.nothing}")
    warnings = {
        f"{where}: the chat template rewrites earlier turns in {rewritten} of {count} conversations; each of their "
        "turns is a tree of its own, which costs several times the tokens": rewritten,
        f"{where}: the chat template does not keep a system message where it was when a reply follows; in {moved} of "
        f"{count} conversations it stands before the first user message's text instead": moved,
        f"{len(unstable)} conversations skipped, the first: {next(iter(unstable), None)}": len(unstable),
        f"{where}: {lookalikes} messages hold the text of a control token (such as the template's end of turn); it is "
        "encoded as plain text there": lookalikes,
    }
    for warning, times in warnings.items():
        if times:
            click.echo(f"warning: {warning}", err=True)
    return trees


def _stable_trees(template: ChatTemplate, conversation: MessageTree, row_length: int) -> tuple[LaidOut, bool]:
    """The trees, and whether its system message had to move for them (some templates show it in a prompt only)."""
    try:
        return template.laid_out(conversation, row_length), False
    except UnstableTemplateError:
        if conversation.system is None:
            raise
        return template.laid_out(conversation, row_length, system_in_user=True), True


@dataclass(frozen=True)
class _Stage:
    """What counts in a stage."""

    selection: Selection
    where: str | Path
    row_length: int

    def trees(self, laid: LaidOut) -> list[TokenTree]:
        """The trees with what counts, without those in which nothing does.

        What no row has room for is counted: as `beyond` of the one tree that there is, or as trees without nodes.
        """
        left_out = [self._beyond(laid, number) for number in laid.beyond]
        if laid.parted:
            kept = [self._counting(tree, laid) for tree in laid.trees]
            none = [TokenTree(laid.source.id, (), (), beyond) for beyond in left_out if beyond.units]
            return [*(tree for tree in kept if tree is not None), *none]
        units = sum(beyond.units for beyond in left_out)
        made = self._counting(laid.trees[0], laid, units > 0)
        if made is None or not (left_out or laid.unread):
            return [] if made is None else [made]
        tokens = int(laid.rate * laid.unread) + sum(beyond.tokens for beyond in left_out)
        turns = max((beyond.turns for beyond in left_out if beyond.units or self.selection.pairs), default=0)
        return [replace(made, beyond=Beyond(tokens, turns, units))]

    def _counting(self, tree: TokenTree, laid: LaidOut, more: bool = False) -> TokenTree | None:
        """The tree with what counts; None where nothing does and there is no `more` that is left out."""
        if self.selection.pairs:
            _check_pairs(tree, self.row_length)
            return tree if tree.pairs or more else None
        wanted = [
            index
            for index, node in enumerate(tree.nodes)
            if node.branch is not None and self._scores(laid.source, node.source, node.branch)
        ]
        return tree.keep_replies(wanted, laid.before if more else ()) if wanted or more else None

    def _beyond(self, laid: LaidOut, number: int) -> Beyond:
        """What counts of an exchange that is in no tree."""
        exchange = laid.source.exchanges[number]
        scored = {
            which
            for which, reply in enumerate(exchange.replies)
            if reply.branch is not None and self._scores(laid.source, number, reply.branch)
        }
        units = len(scored)
        if self.selection.pairs:
            paired = {which for choice in exchange.choices for which in (choice.preferred, choice.rejected)}
            alone = 0 if laid.parted and not exchange.choices else len(scored - paired)
            units = len(exchange.choices) + alone
        shown = scored | laid.answered.get(number, set())
        characters = len(exchange.user) + sum(len(exchange.replies[which].text) for which in shown)
        return Beyond(int(laid.rate * characters + 1), laid.depth[number] + 1, units)

    def _scores(self, tree: MessageTree, exchange: int, branch: Branch) -> bool:
        try:
            return self.selection.scores(tree, exchange, branch)
        except AloeError as error:
            raise AloeError(f"{self.where}: {error}") from None


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
