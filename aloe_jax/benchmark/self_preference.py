"""Warnings of self-preference bias: a judge of the family of the users, of a model under test, or of its training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from aloe_jax.benchmark.settings import EvaluateSettings
from aloe_jax.errors import AloeError
from aloe_jax.llm.families import family, family_of_name, known_family, self_preference_warning
from aloe_jax.llm.settings import RoleSettings
from aloe_jax.storage.files import as_path

if TYPE_CHECKING:
    from aloe_jax.publishing.model_card import Origin

REMEDY = "name a judge of another family (roles.judge, or several in judging.judges)"


def self_preference_warnings(settings: EvaluateSettings) -> list[str]:
    """A sentence for every judge of the same family as another role or model of the run; empty where there is none.

    Looked at are the users, the models under test, the responder of reference lines, and for model directories the
    verifier of their training data and the judge of on-policy training, as far as these are recorded.
    """
    others: dict[str, str | None] = {"the users": family(settings.roles.user)}
    for name, candidate in settings.models.items():
        if candidate.scripted is not None:
            others["the reference lines"] = family(settings.roles.responder)
        elif candidate.remote is not None:
            others[f"the model {name}"] = family(candidate.remote)
        elif candidate.under_test and candidate.path is not None:
            others |= dict(_of_directory(name, candidate.path))
    judges: dict[str, RoleSettings] = dict(settings.judging.judges) or {"": settings.roles.judge}
    found = (
        self_preference_warning(f"the judge {name}".strip(), family(role), others, REMEDY)
        for name, role in judges.items()
    )
    return [sentence for sentence in found if sentence is not None]


def _of_directory(name: str, path: str) -> Iterator[tuple[str, str | None]]:
    from aloe_jax.publishing.model_card import trace_origin  # which loads JAX

    try:
        origin = trace_origin(as_path(path))
    except AloeError:  # of another version: then only its name is known
        yield f"the model {name}", known_family(as_path(path).name)
        return
    yield f"the model {name}", known_family(origin.base)
    yield from _of_training(name, origin)


def _of_training(name: str, origin: Origin) -> Iterator[tuple[str, str | None]]:
    for stage in origin.stages:
        for source in stage.data.sources:
            yield f"the verifier of the training data of {name}", _verifier(source.path)
        if stage.rl.personas is not None and "judge" in stage.rl.rewards:
            yield f"the judge of the on-policy training of {name}", family(stage.roles.judge)


def _verifier(path: str) -> str | None:
    """The family of the verifier that a data set names; None where it names none, or is not there."""
    try:
        model = json.loads((as_path(path) / "metadata.json").read_text())["roles"]["verifier"]["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return family_of_name(model) if isinstance(model, str) else None
