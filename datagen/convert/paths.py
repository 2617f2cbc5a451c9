"""The root-to-leaf dialogues of a conversation tree."""

from __future__ import annotations

from aloe_jax.conversation import Branch, Conversation

Line = list[tuple[int, Branch]]  # (turn, the reply that the line follows there)


def root_to_leaf(conversation: Conversation) -> list[Line]:
    """Every dialogue from the first turn to a turn that nobody answered, in the order of those last turns.

    An ordinary tree has one, its main line. At its last turn a line follows the reply marked as continued.
    """
    answered = {place[0] for number in range(len(conversation.turns)) if (place := conversation.parent(number))}
    return [
        [*conversation.path(number), (number, turn.continued)]
        for number, turn in enumerate(conversation.turns)
        if number not in answered
    ]
