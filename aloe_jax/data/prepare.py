"""A data set on disk → packed rows for a stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from aloe_jax.conversation import Conversation
from aloe_jax.data.packing import PackingReport, Rows, pack
from aloe_jax.data.template import ChatTemplate, UnstableTemplateError
from aloe_jax.data.trees import Node, TokenTree
from aloe_jax.errors import AloeError

Replies = Literal["preferred", "plain", "both"]


@dataclass(frozen=True)
class Prepared:
    """Rows of one split and what became of its conversations."""

    rows: Rows
    report: PackingReport


def prepare(
    conversations: Sequence[Conversation],
    template: ChatTemplate,
    row_length: int,
    replies: Replies | None,
    where: str | Path,
) -> Prepared:
    """Token trees of `conversations`, packed; `replies` (SFT) scores only those replies, None keeps pairs (DPO).

    Conversations whose template is not prefix-stable over turns are split into one tree a turn, and those that
    cannot be split are skipped; both are counted in a warning, and so are messages that hold the text of a control
    token. Raises AloeError when nothing is left.
    """
    trees: list[TokenTree] = []
    split = 0
    unstable: list[UnstableTemplateError] = []
    for conversation in conversations:
        try:
            made = template.trees(conversation)
        except UnstableTemplateError as error:
            unstable.append(error)
            continue
        split += len(made) > 1
        for tree in made:
            if replies is None:
                trees.append(tree)
                continue
            wanted = [place for place, node in enumerate(tree.nodes) if _is_wanted(conversation, node, replies, where)]
            trees.append(tree.keep_replies(wanted))
    if not trees:
        raise unstable[0] if unstable else AloeError(f"{where}: no conversations")
    if replies is None and not any(tree.pairs for tree in trees):
        raise AloeError(f"{where}: no turn has two replies, so there is nothing to prefer; train `stage: sft` on it")
    if split:
        click.echo(
            f"warning: {where}: the chat template rewrites earlier turns in {split} of {len(conversations)} "
            "conversations; each of their turns is a tree of its own, which costs several times the tokens",
            err=True,
        )
    if unstable:
        click.echo(f"warning: {len(unstable)} conversations skipped, the first: {unstable[0]}", err=True)
    if lookalikes := sum(template.lookalikes(conversation) for conversation in conversations):
        click.echo(
            f"warning: {where}: {lookalikes} messages hold the text of a control token (such as the template's end of "
            "turn); it is encoded as plain text there",
            err=True,
        )
    rows, report = pack(trees, row_length)
    return Prepared(rows, report)


def _is_wanted(conversation: Conversation, node: Node, replies: Replies, where: str | Path) -> bool:
    if not node.scored:
        return False
    if replies != "plain":
        return replies in ("both", node.branch)
    plain = conversation.turns[node.source].plain
    if plain is None:
        raise AloeError(
            f"{where}: conversation {conversation.id}, turn {node.source + 1}: the data does not record which reply "
            "was written without the persona hint; use sft.replies=preferred or both"
        )
    return node.branch == plain
