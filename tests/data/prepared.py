"""Short calls for tests: conversations of any kind as token trees and rows."""

from __future__ import annotations

from aloe_jax.conversation import Conversation
from aloe_jax.data import mixture
from aloe_jax.data.messages import MessageTree
from aloe_jax.data.mixture import Prepared
from aloe_jax.data.packing import Part, pack
from aloe_jax.data.prepare import token_trees


def message_tree(talk):
    """A conversation as a message tree; a message tree as it is."""
    return MessageTree.of(talk) if isinstance(talk, Conversation) else talk


def trees_of(template, talk):
    """The token trees of a conversation of any length."""
    return template.laid_out(message_tree(talk)).trees


def lookalikes(template, talk):
    return template.lookalikes(message_tree(talk))


def prepare(talks, template, row_length, selection, where):
    """Rows of conversations, as those of a single source."""
    trees = token_trees(map(message_tree, talks), template, row_length, selection, where)
    rows, report = pack(trees, row_length)
    return Prepared(rows, report, (Part(str(where), 0, len(rows)),), (report,))


def gather(data, template, selection, split, **more):
    """The same as the data's own, with rows as the settings say."""
    return mixture.gather(data, template, selection, split, row_length=data.row_length, packing=data.packing, **more)


def path_messages(tree, exchange, reply):
    """The messages of the path through a reply, the system message included."""
    parts, index = [], (exchange, reply)
    while index is not None:
        this = tree.exchanges[index[0]]
        user, said = this.user, this.replies[index[1]].text
        parts.append([{"role": "user", "content": user}, {"role": "assistant", "content": said}])
        index = this.follows
    opening = [] if tree.system is None else [{"role": "system", "content": tree.system}]
    return [*opening, *(message for part in reversed(parts) for message in part)]
