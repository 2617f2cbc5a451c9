"""A cast that listens: everything it says follows from what was said to it, and it remembers what it was asked."""

import threading
import zlib

from aloe_jax.conversation import Persona
from aloe_jax.roles import Rating, RoleError

FACTS = ("Keeps bees behind the old barn.", "Teaches chemistry at night school.", "Sails a tiny wooden boat.",
         "Collects broken pocket watches.", "Sings bass in the cathedral choir.")  # fmt: skip
PERSONAS = [Persona(id=f"p{i}", profile=" ".join(FACTS), personality="Gentle and slow to anger.") for i in range(5)]


def number(text, below):
    return zlib.crc32(text.encode()) % below


def said_by_user(history, seed):
    """A message that shows the seed and the last reply, and may tell one of the facts."""
    last = history[-1]["content"] if history else "nothing"
    fact = FACTS[number(last, len(FACTS))] if number(last + "!", 3) else "Well."
    return f"{fact} {number(last, 97)} {seed % 97}"


def rating_of(reply, seed):
    return 1 + (number(reply, 4) + seed) % 5


class Listener:
    """Plays user, judge and inducer. `fails`: (role, its input) -> whether it has no answer."""

    def __init__(self, remote=True, fails=lambda role, text: False):
        self.remote, self.fails = remote, fails
        self.asked = []
        self._lock = threading.Lock()

    def is_remote(self, role):
        return self.remote

    def _note(self, role, text, *more):
        with self._lock:
            self.asked.append((role, text, *more))
        if self.fails(role, text):
            raise RoleError(f"{role}: blocked reply")

    def user_message(self, persona, history, seed):
        self._note("user", repr([message["content"] for message in history]), persona.id, seed)
        return said_by_user(history, seed)

    def judge(self, persona, history, reply, seed):
        self._note("judge", reply, repr([message["content"] for message in history]), persona.id, seed)
        return Rating(rating=rating_of(reply, seed))

    def infer(self, persona, messages, seed):
        self._note("inducer", repr(list(messages)), persona.id, seed)
        return " ".join(fact for fact in FACTS if any(fact in message for message in messages)), ""
