"""A cast whose every answer is known beforehand, and small settings for data generation."""

from pathlib import Path

from aloe_jax.conversation import Persona
from aloe_jax.llm.settings import RolesSettings
from aloe_jax.roles import RoleError
from datagen.settings import ConversationsSettings, DatagenSettings, PersonasSettings

SCRIPTED = RolesSettings.model_validate({"provider": "scripted"})


def small_settings(output: Path, **conversations) -> DatagenSettings:
    """Six training profiles with two of four personalities each, and four benchmark personas."""
    return DatagenSettings(
        output=str(output),
        personas=PersonasSettings(
            profiles=6,
            personalities=4,
            personalities_per_profile=2,
            benchmark_profiles=2,
            benchmark_personalities=2,
        ),
        conversations=ConversationsSettings(**{"count": 12, "turns": 3, "concurrency": 2, **conversations}),
        roles=SCRIPTED,
    )


def some_personas(profiles: int, personalities: int = 2) -> list[Persona]:
    """`profiles` × `personalities` personas with ids as data generation gives them."""
    return [
        Persona(id=f"p{p:04d}-t{t:03d}", profile=f"Profile number {p}.", personality=f"Personality {t}.")
        for p in range(profiles)
        for t in range(personalities)
    ]


class Players:
    """Plays the roles of a conversation by rule. The knobs are attributes of an instance."""

    spoiled_messages = 0  # so many first user messages for every persona cannot be read
    equal_draws = 0  # so many first plain replies repeat the reply written with the hint
    judgement = "hinted"  # or "first": the verifier takes whichever it reads first
    contradictions = 0  # so many first verdicts of a conversation follow the order of the replies
    error: Exception | None = None  # raised by every reply

    def __init__(self):
        self.spoiled: dict[str, int] = {}
        self.plain_draws: dict[str, int] = {}

    def user_message(self, persona, history, seed):
        """The profile, the turn and the seed, so that any change of seed shows."""
        self.spoiled.setdefault(persona.id, 0)
        if self.spoiled[persona.id] < self.spoiled_messages:
            self.spoiled[persona.id] += 1
            raise RoleError(f"user (by rule): unusable answer twice, number {self.spoiled[persona.id]}")
        return f"{persona.profile} turn {len(history) // 2} seed {seed}"

    def infer(self, persona, user_messages, seed):
        """How many messages there were."""
        return f"{len(user_messages)} messages", ""

    def reply(self, history, hint, seed):
        """A reply that says whether it had a hint."""
        if self.error:
            raise self.error
        said = history[-1]["content"]
        if hint is None:
            drawn = self.plain_draws[said] = self.plain_draws.get(said, 0) + 1
            if drawn > self.equal_draws:
                return f"plain reply to {said}"
        return f"hinted reply to {said}"

    def verify(self, persona, history, first, second, seed):
        """By `judgement`."""
        if self.judgement == "first":
            return 0
        if self.contradictions:
            # An odd and an even verdict make one contradiction when the order is swapped between them.
            self.contradictions -= 1
            return 0
        return 0 if first.startswith("hinted") else 1
