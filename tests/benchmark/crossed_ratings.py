"""Simulated ratings of people who share profiles and personalities: whole numbers from 1 to 5, as judges give them."""

import numpy as np

from aloe_jax.benchmark.case_design import CaseDesign

TURNS = 10
CASE, RATING = 0.3, 0.9  # standard deviations of a case's own effect, and of a rating around everything else
EFFECTS = ((0.0, 0.0), (0.15, 0.10), (0.20, 0.20), (0.25, 0.35))  # standard deviations of profiles, of personalities
SLOPE = 0.15  # the standard deviation of a part's slope a turn, as a share of that of its level


def crossed(profiles=20, personalities=5):
    """Every combination, profile by profile."""
    numbers = np.arange(profiles * personalities)
    profile, personality = numbers // personalities, numbers % personalities
    return CaseDesign(tuple(numbers.tolist()), tuple(profile.tolist()), tuple(personality.tolist()))


def effects(random, design, deviations):
    """What a model gains with the people of a design, at each turn: [N, TURNS]."""
    turn = np.arange(TURNS) - (TURNS - 1) / 2
    found = random.normal(0, CASE, (design.people, 1))
    for part, deviation in zip((design.profile, design.personality), deviations, strict=True):
        level = random.normal(0, deviation, max(part) + 1)[list(part)]
        slope = random.normal(0, SLOPE * deviation, max(part) + 1)[list(part)]
        found = found + level[:, None] + slope[:, None] * turn
    return found[list(design.person)]


def rated(random, latent):
    """Ratings [N, K] around what they would be without noise."""
    return np.clip(np.floor(latent + random.normal(0, RATING, latent.shape) + 0.5), 1, 5)


def levels(curve, deviations):
    """AL [K] of endless people, who share nothing."""
    random, many = np.random.default_rng(99), 20_000
    blocks = [rated(random, curve + effects(random, CaseDesign.distinct(many), deviations)) for _ in range(15)]
    return np.mean([block.mean(axis=0) for block in blocks], axis=0)
