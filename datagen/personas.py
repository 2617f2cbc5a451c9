"""Grows the pools of profiles and personalities, and draws training and benchmark personas from them."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from aloe_jax import config
from aloe_jax.conversation import Persona
from aloe_jax.errors import AloeError
from datagen.journal import BATCH, POOL, journal_path, same_settings
from datagen.similarity import Novelty

if TYPE_CHECKING:
    from aloe_jax.llm.ledger import Ledger


class Writer(Protocol):
    """What a pool needs of the cast: both calls take examples, the number wanted and a seed."""

    def write_profiles(self, examples: list[str], count: int, seed: int) -> list[str]: ...  # noqa: D102
    def write_personalities(self, examples: list[str], count: int, seed: int) -> list[str]: ...  # noqa: D102


@dataclass
class Pool:
    """Texts in the order in which they were accepted, and what became of the other candidates."""

    members: list[str]
    calls: int = 0
    refused: Counter[str] = field(default_factory=Counter)


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


def grow(
    ledger: Ledger,
    name: str,
    seeds: Sequence[str],
    target: int,
    settings: config.Datagen,
    *,
    write: Callable[[list[str], int, int], list[str]],
    progress: Callable[[int], None] = lambda size: None,
) -> Pool:
    """Grow the pool `name` ("profiles" or "personalities") from `seeds` to at least `target` members.

    Each call shows the writer a random draw of members and asks for candidates; the outcome of call n depends
    on the seed, n and the pool so far, and is journaled, so that a run that was killed ends with the same
    pool. Raises AloeError when `patience` calls in a row brought nothing new before the target.
    """
    from aloe_jax.roles import RoleError, derive_seed

    wanted = settings.personas
    shape = [name, settings.seed, wanted.examples, wanted.candidates, wanted.similarity, list(seeds)]
    shape.append(settings.roles.persona_writer.model_dump())
    key = hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:16]

    novelty = Novelty(wanted.similarity)
    members, refused = novelty.filter(seeds)
    pool = Pool(members, refused=refused)
    restored = len(members)  # so many are in `novelty`; members read back from the journal join them on demand
    barren = 0
    progress(len(pool.members))
    while len(pool.members) < target:
        if barren == wanted.patience:
            raise AloeError(_saturated(pool, name, target, wanted.patience))
        batch_id = f"{name}-{key}-{pool.calls:06d}"
        batch = ledger.get(BATCH, batch_id)
        if batch is None:
            novelty.add(pool.members[restored:])
            seed = derive_seed(settings.seed, name, pool.calls)
            examples = random.Random(seed).sample(pool.members, min(wanted.examples, len(pool.members)))
            try:
                accepted, refusals = novelty.filter(write(examples, wanted.candidates, seed))
            except RoleError:
                accepted, refusals = [], Counter({"unreadable answer": 1})
            batch = {"accepted": accepted, "refused": dict(refusals)}
            ledger.put(BATCH, batch_id, batch)
            restored = len(pool.members) + len(accepted)
        pool.members.extend(batch["accepted"])
        pool.refused.update(batch["refused"])
        pool.calls += 1
        barren = 0 if batch["accepted"] else barren + 1
        progress(len(pool.members))
    return pool


def _saturated(pool: Pool, name: str, target: int, patience: int) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in pool.refused.most_common()) or "no candidates"
    return (
        f"the pool of {name} stopped growing at {len(pool.members)} of {target}: {patience} calls in a row "
        f"brought nothing new (refused: {reasons}); lower personas.{name} or personas.benchmark_{name}, "
        "or raise personas.similarity, personas.patience or the writer's temperature; the members are kept"
    )


def draw(profiles: int, personalities: int, settings: config.Datagen) -> dict[str, list[tuple[int, int]]]:
    """Draw (profile, personality) numbers for the splits `train` and `benchmark`.

    Benchmark profiles and personalities are held out first, so the splits share neither. A training profile
    gets `personalities_per_profile` different personalities.
    """
    from aloe_jax.roles import derive_seed

    wanted = settings.personas
    rng = random.Random(derive_seed(settings.seed, "draw"))
    held_profiles = sorted(rng.sample(range(profiles), wanted.benchmark_profiles))
    held_personalities = sorted(rng.sample(range(personalities), wanted.benchmark_personalities))
    free = [number for number in range(personalities) if number not in set(held_personalities)]
    train = []
    for profile in range(profiles):
        if profile not in set(held_profiles):
            train += [(profile, trait) for trait in sorted(rng.sample(free, wanted.personalities_per_profile))]
    return {
        "train": train,
        "benchmark": [(profile, trait) for profile in held_profiles for trait in held_personalities],
    }


def write_personas(
    ledger: Ledger,
    writer: Writer,
    settings: config.Datagen,
    seeds: tuple[Sequence[str], Sequence[str]],
    progress: Callable[[str, int, int], None] = lambda name, size, target: None,
) -> tuple[Personas, dict[str, Pool]]:
    """Grow both pools, draw the personas and journal the draw as one record.

    `seeds` are the profiles and the personalities that the pools start from. Once the draw is recorded, it is
    returned without any pools. Raises AloeError on saturation and on settings other than the recorded ones.
    """
    wanted = settings.personas
    if wanted.personalities_per_profile > wanted.personalities:
        raise AloeError(
            f"personas.personalities_per_profile: {wanted.personalities_per_profile} different personalities "
            f"for a profile cannot be drawn from personas.personalities={wanted.personalities}"
        )
    if ledger.get(POOL, "personas") is not None:
        return recorded_personas(ledger, settings), {}
    sizes = {
        "profiles": wanted.profiles + wanted.benchmark_profiles,
        "personalities": wanted.personalities + wanted.benchmark_personalities,
    }
    writers = {"profiles": writer.write_profiles, "personalities": writer.write_personalities}
    pools: dict[str, Pool] = {}
    for (name, target), start in zip(sizes.items(), seeds, strict=True):
        show = partial(_show, progress, name, target)
        pools[name] = grow(ledger, name, start, target, settings, write=writers[name], progress=show)
    record = {
        **{name: pools[name].members[:target] for name, target in sizes.items()},
        **draw(sizes["profiles"], sizes["personalities"], settings),
        "settings": _shaping(settings),
    }
    ledger.put(POOL, "personas", record)
    return recorded_personas(ledger, settings), pools


def _show(progress: Callable[[str, int, int], None], name: str, target: int, size: int) -> None:
    progress(name, min(size, target), target)


def recorded_personas(ledger: Ledger, settings: config.Datagen) -> Personas:
    """The personas of a finished `datagen personas`. Raises AloeError when there are none or others."""
    path = journal_path(settings)
    record = ledger.get(POOL, "personas")
    if record is None:
        raise AloeError(f"{path}: holds no personas yet; run `python -m datagen personas --config FILE` first")
    same_settings(path, "personas", record["settings"], _shaping(settings))

    def persona(profile: int, personality: int) -> Persona:
        return Persona(
            id=f"p{profile:04d}-t{personality:03d}",
            profile=record["profiles"][profile],
            personality=record["personalities"][personality],
        )

    return Personas(
        training=[persona(*pair) for pair in record["train"]],
        benchmark=[persona(*pair) for pair in record["benchmark"]],
    )


def _shaping(settings: config.Datagen) -> dict[str, Any]:
    """The settings that decide who the personas are, by dotted name."""
    shaping: dict[str, Any] = {"seed": settings.seed}
    for key, value in settings.personas.model_dump(exclude={"patience"}).items():
        shaping[f"personas.{key}"] = value
    for key, value in settings.roles.persona_writer.model_dump().items():
        shaping[f"roles.persona_writer.{key}"] = value
    return shaping
