"""Which replies of a conversation a stage scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aloe_jax.conversation import Branch
from aloe_jax.data.messages import MessageTree
from aloe_jax.data.settings import Replies
from aloe_jax.errors import AloeError


@dataclass(frozen=True)
class Selection:
    """Which of the judged replies a stage scores.

    `scores` decides it for the reply on a branch of an exchange (its number in the tree). With `pairs` the stage
    compares replies: pairs are kept, and a tree without one counts for nothing. `nothing` is the error for data in
    which nothing counts. `of_chats` is what a stage scores of chats, which have one reply a turn, where that is
    something else; data that is nothing but chats is then an error, too.
    """

    scores: Callable[[MessageTree, int, Branch], bool]
    nothing: str
    pairs: bool = False
    of_chats: Selection | None = None


def _is_plain(tree: MessageTree, exchange: int, branch: Branch) -> bool:
    plain = tree.exchanges[exchange].plain
    if plain is None:
        raise AloeError(
            f"{tree.where}, turn {exchange + 1}: the data does not record which reply "
            "was written without the persona hint; use sft.replies=preferred or both"
        )
    return branch == plain


_ALL_MARKED = "no reply is to be learned from: all are marked (weight 0, train false); mend the file"

PREFERRED = Selection(lambda tree, exchange, branch: branch == "preferred", _ALL_MARKED)
REJECTED = Selection(
    lambda tree, exchange, branch: branch == "rejected",
    "no turn has a rejected reply, which is what sft.replies: rejected learns; use sft.replies=preferred",
    of_chats=PREFERRED,  # so that a mixture is the same beside them as for SFT on preferred replies
)
PLAIN = Selection(_is_plain, _ALL_MARKED)  # written without the persona hint
BOTH = Selection(lambda tree, exchange, branch: True, _ALL_MARKED)
PAIRS = Selection(
    lambda tree, exchange, branch: True,
    "no turn has two replies, so there is nothing to prefer; train `stage: sft` on it",
    pairs=True,
)
# By the name in settings.
REPLIES: Mapping[Replies, Selection] = {"preferred": PREFERRED, "rejected": REJECTED, "plain": PLAIN, "both": BOTH}
