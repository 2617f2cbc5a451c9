"""Whether the verifier is of the family of those whose texts and readings it should judge from outside."""

from __future__ import annotations

from collections.abc import Mapping

from aloe_jax.llm.families import family_of_name, kinship
from datagen.settings import DatagenSettings

ROLES = ("user", "inducer", "responder")


def same_family(models: Mapping[str, str | None]) -> str | None:
    """A sentence, where the verifier is of the family of another role; `models` are the models' names by role."""
    others = {f"the {name}": family_of_name(models.get(name)) for name in ROLES}
    return kinship("the verifier", family_of_name(models.get("verifier")), others, "name another as roles.verifier")


def models_of(settings: DatagenSettings) -> dict[str, str | None]:
    """The models' names by role; None where a script plays it."""
    roles = ((name, getattr(settings.roles, name)) for name in (*ROLES, "verifier"))
    return {name: None if role.entry.simulated else role.model for name, role in roles}
