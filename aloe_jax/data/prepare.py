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
from aloe_jax.data.trees import TokenTree
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
    cannot be split are skipped; both are counted in a warning. Raises AloeError when nothing is left.
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
            wanted = [
                place
                for pair in tree.pairs
                for place in _wanted(conversation, pair.turn, (pair.preferred, pair.rejected), replies, where)
            ]
            trees.append(tree.keep_replies(wanted))
    if not trees:
        raise unstable[0] if unstable else AloeError(f"{where}: no conversations")
    if split:
        click.echo(
            f"warning: {where}: the chat template rewrites earlier turns in {split} of {len(conversations)} "
            "conversations; each of their turns is a tree of its own, which costs several times the tokens",
            err=True,
        )
    if unstable:
        click.echo(f"warning: {len(unstable)} conversations skipped, the first: {unstable[0]}", err=True)
    rows, report = pack(trees, row_length)
    return Prepared(rows, report)


def _wanted(
    conversation: Conversation, turn: int, places: tuple[int, int], replies: Replies, where: str | Path
) -> list[int]:
    preferred, rejected = places
    if replies == "preferred":
        return [preferred]
    if replies == "both":
        return [preferred, rejected]
    plain = conversation.turns[turn].plain
    if plain is None:
        raise AloeError(
            f"{where}: conversation {conversation.id}, turn {turn + 1}: the data does not record which reply was "
            "written without the persona hint; use sft.replies=preferred or both"
        )
    return [preferred if plain == "preferred" else rejected]
