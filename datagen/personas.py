"""The personas of a run: both pools, and the draw of training and benchmark personas from them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, Field, model_validator

from aloe_jax.conversation import Persona
from aloe_jax.errors import AloeError
from aloe_jax.llm.ledger import Ledger
from aloe_jax.roles import Cast, derive_seed
from datagen.journal import POOL, journal_path, same_settings
from datagen.pool.growth import TextPool, grow, journaled_pool
from datagen.pool.seeds import seed_texts
from datagen.pool.similarity import Kind
from datagen.settings import DatagenSettings


@dataclass(frozen=True)
class Personas:
    """The personas of a run. Ids are PROFILE-PERSONALITY, for instance p0012-t034."""

    training: list[Persona]
    benchmark: list[Persona]

    @staticmethod
    def profile_id(persona: Persona) -> str:
        """The part of the id that names the profile."""
        return persona.id.partition("-")[0]

    @staticmethod
    def personality_id(persona: Persona) -> str:
        """The part of the id that names the personality."""
        return persona.id.partition("-")[2]


class Growth(BaseModel):
    """How a pool came about."""

    curve: list[int] = Field(min_length=1)
    refused: dict[str, int]


class Draw(BaseModel):
    """The finished pools and who is drawn from them, as the journal has it."""

    profiles: list[str]
    personalities: list[str]
    train: list[tuple[int, int]]
    benchmark: list[tuple[int, int]]
    growth: dict[Kind, Growth]
    settings: dict[str, object]

    @model_validator(mode="after")
    def _drawn_from_the_pools(self) -> Draw:
        for profile, personality in (*self.train, *self.benchmark):
            if not (0 <= profile < len(self.profiles) and 0 <= personality < len(self.personalities)):
                raise ValueError(f"({profile}, {personality}) is in no pool")
        if self.growth.keys() != {"profiles", "personalities"}:
            raise ValueError("growth: is not of both pools")
        return self


def draw(profiles: int, personalities: int, settings: DatagenSettings) -> dict[str, list[tuple[int, int]]]:
    """Draw (profile, personality) numbers for the splits `train` and `benchmark`.

    Benchmark profiles and personalities are held out first, so the splits share neither. A training profile
    gets `personalities_per_profile` different personalities. The held-out ones are crossed, or with
    `benchmark_pairing: distinct` paired one to one.
    """
    wanted = settings.personas
    rng = random.Random(derive_seed(settings.seed, "draw"))
    held_profiles = sorted(rng.sample(range(profiles), wanted.benchmark_profiles))
    held_personalities = sorted(rng.sample(range(personalities), wanted.benchmark_personalities))
    free = [number for number in range(personalities) if number not in set(held_personalities)]
    train = []
    for profile in range(profiles):
        if profile not in set(held_profiles):
            train += [(profile, trait) for trait in sorted(rng.sample(free, wanted.personalities_per_profile))]
    if wanted.benchmark_pairing == "distinct":
        rng.shuffle(held_personalities)
        benchmark = list(zip(held_profiles, held_personalities, strict=True))
    else:
        benchmark = [(profile, trait) for profile in held_profiles for trait in held_personalities]
    return {"train": train, "benchmark": benchmark}


def pool_sizes(settings: DatagenSettings) -> dict[Kind, int]:
    """How many texts the pools must hold for training and benchmark together."""
    wanted = settings.personas
    return {
        "profiles": wanted.profiles + wanted.benchmark_profiles,
        "personalities": wanted.personalities + wanted.benchmark_personalities,
    }


def write_personas(
    ledger: Ledger,
    writer: Cast,
    settings: DatagenSettings,
    seeds: tuple[Sequence[str], Sequence[str]],
    progress: Callable[[str, int, int], None] = lambda name, size, target: None,
) -> tuple[Personas, dict[Kind, TextPool]]:
    """Grow both pools, draw the personas and journal the draw as one record.

    `seeds` are the profiles and the personalities that the pools start from. Once the draw is recorded, it is
    returned without any pools. Raises SaturatedError when a pool stops growing, and AloeError on settings other
    than the recorded ones.
    """
    wanted = settings.personas
    if wanted.personalities_per_profile > wanted.personalities:
        raise AloeError(
            f"personas.personalities_per_profile: {wanted.personalities_per_profile} different personalities "
            f"for a profile cannot be drawn from personas.personalities={wanted.personalities}"
        )
    if ledger.get(POOL, "personas") is not None:
        return recorded_personas(ledger, settings), {}
    sizes = pool_sizes(settings)
    writers = {"profiles": writer.write_profiles, "personalities": writer.write_personalities}
    pools: dict[Kind, TextPool] = {}
    for (name, target), start in zip(sizes.items(), seeds, strict=True):

        def show(size: int, name: Kind = name, target: int = target) -> None:
            progress(name, min(size, target), target)

        pools[name] = grow(ledger, name, start, target, settings, write=writers[name], progress=show)
    record: dict[str, object] = {name: pools[name].members[:target] for name, target in sizes.items()}
    record |= draw(sizes["profiles"], sizes["personalities"], settings)
    record |= {
        "growth": {name: {"curve": pool.curve, "refused": dict(pool.refused)} for name, pool in pools.items()},
        "settings": _shaping(settings),
    }
    ledger.put(POOL, "personas", record)
    return recorded_personas(ledger, settings), pools


def recorded_draw(ledger: Ledger) -> Draw | None:
    """The record of a finished draw, or None. Raises AloeError naming the field that is wrong."""
    record = ledger.get(POOL, "personas")
    return None if record is None else ledger.read(Draw, POOL, "personas", record)


def recorded_personas(ledger: Ledger, settings: DatagenSettings) -> Personas:
    """The personas of a finished `datagen personas`. Raises AloeError when there are none or others."""
    path = journal_path(settings)
    record = recorded_draw(ledger)
    if record is None:
        raise AloeError(f"{path}: holds no personas yet; run `python -m datagen personas --config FILE` first")
    same_settings(path, "personas", record.settings, _shaping(settings))

    def persona(profile: int, personality: int) -> Persona:
        return Persona(
            id=f"p{profile:04d}-t{personality:03d}",
            profile=record.profiles[profile],
            personality=record.personalities[personality],
        )

    return Personas(
        training=[persona(*pair) for pair in record.train],
        benchmark=[persona(*pair) for pair in record.benchmark],
    )


def recorded_pools(ledger: Ledger, settings: DatagenSettings) -> dict[Kind, TextPool]:
    """Both pools as far as they have been grown: from the finished draw, or call by call, or the bare seeds.

    Raises AloeError when the pools are not finished and their seeds cannot be read.
    """
    record = recorded_draw(ledger)
    if record is not None:
        return {
            name: TextPool(name, getattr(record, name), Counter(grown.refused), grown.curve)
            for name in pool_sizes(settings)
            for grown in [record.growth[name]]
        }
    seeds = zip(pool_sizes(settings), seed_texts(settings), strict=True)
    return {name: journaled_pool(ledger, name, texts, settings) for name, texts in seeds}


def _shaping(settings: DatagenSettings) -> dict[str, object]:
    """The settings that decide who the personas are, by dotted name."""
    shaping: dict[str, object] = {"seed": settings.seed}
    leave = {"patience"}
    if settings.personas.benchmark_pairing == "crossed":  # journals from before there was another do not name it
        leave.add("benchmark_pairing")
    for key, value in settings.personas.model_dump(exclude=leave).items():
        shaping[f"personas.{key}"] = value
    for key, value in settings.roles.persona_writer.shaping().items():
        shaping[f"roles.persona_writer.{key}"] = value
    return shaping
