"""Replies with a defect that a mean rating hides: cut off, empty, said before in the same dialogue, or in a loop.

cut       ended at `max_new_tokens`, or where the model's context was full, without an end of turn
shortened a remote model's reply of which only the first sentences were kept, as many as its prompt allows
empty     nothing but white space
earlier   the words of an earlier reply of the same dialogue and no others, in their order, whatever their case and
          punctuation
looping   some sequence of 1 to LONGEST words stands TIMES times or more in a row, LEAST words or more altogether
repeated  earlier or looping

Words are what is between spaces and punctuation: loops in scripts without spaces are not found. Why a reply ended is
known of replies that this version journaled, and of a local model's by their tokens (`Journal`); where it is unknown of
all of them, so is the share that was cut, and of how many it is unknown stands beside the share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from aloe_jax.benchmark.automatic import words_of
from aloe_jax.benchmark.dialogue import Dialogue
from aloe_jax.benchmark.number_text import percent
from aloe_jax.benchmark.results import ReplyEnd, StoredReplies
from aloe_jax.publishing.card_results import TOLERATED
from aloe_jax.roles import LONGEST_REPLY

CUT: tuple[ReplyEnd, ...] = ("max_new_tokens", "length")
LONGEST, TIMES, LEAST = 10, 3, 12  # of a loop: words in its sequence, how often it stands there, words in all


def reply_defects(dialogues: Sequence[Dialogue]) -> StoredReplies:
    """How many replies there are, and the shares of those with each defect; None where there are no replies."""
    replies = [exchange.reply for dialogue in dialogues for exchange in dialogue.exchanges]
    words = [[words_of(exchange.reply.text) for exchange in dialogue.exchanges] for dialogue in dialogues]
    earlier = [bool(own) and own in row[:turn] for row in words for turn, own in enumerate(row)]
    looping = [loops(own) for row in words for own in row]
    known = [reply.ended for reply in replies if reply.ended != "unknown"]
    return StoredReplies(
        replies=len(replies),
        unknown=len(replies) - len(known),
        cut=_share([ended in CUT for ended in known]),
        shortened=_share([ended == "shortened" for ended in known]),
        empty=_share([not reply.text.strip() for reply in replies]),
        earlier=_share(earlier),
        looping=_share(looping),
        repeated=_share([one or other for one, other in zip(earlier, looping, strict=True)]),
    )


def loops(words: Sequence[str]) -> bool:
    """Whether some sequence of these words stands there over and over; see above."""
    for size in range(1, LONGEST + 1):
        run = 0  # words in a row that equal the one `size` before them
        for at in range(size, len(words)):
            run = run + 1 if words[at] == words[at - size] else 0
            if run + size >= max(TIMES * size, LEAST):
                return True
    return False


def defect_warnings(models: Mapping[str, StoredReplies | None], sampling: Mapping[str, object]) -> Iterator[str]:
    """A line for every model (name -> its counts) and defect that more than TOLERATED of its replies have.

    `sampling` are the settings of the run, of which the warning about cut replies names the one to raise.
    """
    most = sampling.get("max_new_tokens")
    limit = f" ({most})" if isinstance(most, int) else ""
    for name, found in models.items():
        if found is None:
            continue
        for share, what in (
            (found.cut, f"replies were cut; raise sampling.max_new_tokens{limit}"),
            (found.shortened, f"replies had more than {LONGEST_REPLY} sentences and were shortened to them"),
            (found.empty, "replies are empty"),
            (found.repeated, "replies repeat themselves or an earlier one"),
        ):
            if share is not None and share > TOLERATED:
                yield f"{name}: {percent(share)} of its {what}"


def _share(marks: Sequence[bool]) -> float | None:
    return sum(marks) / len(marks) if marks else None
