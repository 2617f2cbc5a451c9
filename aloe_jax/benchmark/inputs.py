"""What a run of the benchmark reads before its first dialogue: models that are there, and the personas of its cases."""

from __future__ import annotations

from aloe_jax.benchmark.settings import EvaluateSettings
from aloe_jax.conversation import Persona
from aloe_jax.data.dataset import read_personas
from aloe_jax.errors import AloeError
from aloe_jax.storage.files import as_path


def check_models(settings: EvaluateSettings) -> None:
    """Raise AloeError for the first model path that holds no model."""
    for name, candidate in settings.models.items():
        if candidate.path is not None:
            check_model(f"models.{name}", candidate.path)


def check_model(key: str, directory: str) -> None:
    """Raise AloeError naming the setting `key` when there is no model in a directory."""
    path = as_path(directory)
    if not path.is_dir():
        raise AloeError(f"{key}: {path} is not a directory; give a model directory or a run directory")
    if (path / "config.json").is_file():
        return
    if not (path / "spec.json").is_file():
        raise AloeError(
            f"{key}: {path} holds neither config.json (a Hugging Face directory) nor spec.json "
            "(a run of aloe_jax.train)"
        )
    if not any(entry.name.isdigit() for entry in path.glob("checkpoints/*")):
        raise AloeError(f"{key}: {path} has no checkpoint yet; train it first")


def read_cases(settings: EvaluateSettings) -> list[Persona]:
    """The first `settings.cases` benchmark personas. Raises AloeError when there are fewer, or an id is repeated."""
    personas = read_personas(settings.personas, "benchmark", limit=settings.cases)
    if len(personas) < settings.cases:
        raise AloeError(
            f"{settings.personas}: has {len(personas)} benchmark personas, cases asks for {settings.cases}; "
            "lower cases or generate more personas"
        )
    seen: set[str] = set()
    for persona in personas:
        if persona.id in seen:
            raise AloeError(f"{settings.personas}: persona {persona.id} is there twice; give every persona its own id")
        seen.add(persona.id)
    return personas
