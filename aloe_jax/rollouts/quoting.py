"""How much of a persona's text is known: what an inducer has recovered, and what a reply gives away.

A sentence of the persona is repeated by another sentence if one of the two has at least four of five telling words of
the other (`speech.quoted_from`). These measures are our own, by words and not by meaning: a paraphrase does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aloe_jax.conversation import Persona
from aloe_jax.speech import quoted_from, sentences, telling_words

LEAST = 2  # telling words of a sentence of a reply, for it to be a quotation
SAID = 0.5  # share of a sentence's telling words that the user has said, from which on it is revealed


def recovered(induced: str, persona: Persona) -> float:
    """The share of the persona's sentences that `induced` repeats, in [0, 1]; 0 where none has a telling word."""
    known = [sentence for sentence in sentences(induced) if telling_words(sentence)]
    own = _sentences(persona)
    return sum(any(_repeats(one, sentence) for one in known) for sentence in own) / max(1, len(own))


def leaked(reply: str, persona: Persona, said: Iterable[str]) -> float:
    """The share of a reply's sentences that repeat what the user's messages `said` have not revealed, in [0, 1].

    Short sentences, of fewer than LEAST telling words, repeat nothing. A sentence of the persona is revealed where the
    user has said at least SAID of its telling words, in whatever message.
    """
    heard = {word for message in said for word in telling_words(message)}
    hidden = [sentence for sentence in _sentences(persona) if not _is_revealed(sentence, heard)]
    own = sentences(reply)
    given_away = [
        any(_repeats(one, sentence) for sentence in hidden) for one in own if len(telling_words(one)) >= LEAST
    ]
    return sum(given_away) / max(1, len(own))


def _sentences(persona: Persona) -> list[str]:
    return [one for text in (persona.profile, persona.personality) for one in sentences(text) if telling_words(one)]


def _repeats(one: str, sentence: str) -> bool:
    return quoted_from(sentence)(one) or quoted_from(one)(sentence)


def _is_revealed(sentence: str, heard: set[str]) -> bool:
    words: Sequence[str] = telling_words(sentence)
    return sum(word in heard for word in words) >= SAID * len(words)
