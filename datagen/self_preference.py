"""Warnings of self-preference bias in data: a verifier of the family of the user, the inducer or the responder."""

from __future__ import annotations

from collections.abc import Mapping

from aloe_jax.llm.families import family_of_name, self_preference_warning
from datagen.settings import DatagenSettings

ROLES = ("user", "inducer", "responder")


def self_preference_warnings(models: Mapping[str, str | None]) -> list[str]:
    """One sentence where the verifier is of the family of another role, else none; `models` are names by role."""
    others = {f"the {name}": family_of_name(models.get(name)) for name in ROLES}
    own = family_of_name(models.get("verifier"))
    found = self_preference_warning("the verifier", own, others, "name another as roles.verifier")
    return [] if found is None else [found]


def models_of(settings: DatagenSettings) -> dict[str, str | None]:
    """The models' names by role; None where a script plays it."""
    roles = ((name, getattr(settings.roles, name)) for name in (*ROLES, "verifier"))
    return {name: None if role.entry.simulated else role.model for name, role in roles}
