"""Settings of `python -m datagen`, with their defaults."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from aloe_jax.llm.registry import register
from aloe_jax.llm.settings import RolesSettings
from aloe_jax.ranges import AtOnce, Dollars, Fraction, PathText, Positive, Seed, Several, Thousands
from aloe_jax.sampling.provider import POLICY
from aloe_jax.settings import Section
from aloe_jax.storage.files import is_remote

register(POLICY)

# Benchmark people. crossed: every profile with every personality. distinct: every one has a profile and a personality
# of their own, which detects smaller differences with as many people (docs/benchmark.md).
BenchmarkPairing = Literal["crossed", "distinct"]
Branching = Literal["random", "both"]  # which replies of a turn the user answers


class PersonasSettings(Section):
    """The pool: `profiles` × `personalities_per_profile` for training, and a disjoint benchmark set."""

    profiles: Thousands = 331
    personalities: Thousands = 72
    personalities_per_profile: Thousands = 10
    benchmark_profiles: Thousands = 20
    benchmark_personalities: Thousands = 5
    benchmark_pairing: BenchmarkPairing = "crossed"
    seeds: PathText | None = (
        None  # directory with profiles.txt and personalities.txt, one a line; None: the built-in ones
    )
    examples: Several = 5  # random pool members shown to the writer
    candidates: Several = 20  # asked of the writer in one call
    vectors: Literal["words", "gemini", "sentence-transformers"] = "words"  # what similarity is measured on
    vector_model: str | None = None  # the embedding model, for instance gemini-embedding-001 or all-MiniLM-L6-v2
    similarity: Fraction = 0.6  # cosine above which a candidate is a duplicate; `calibrate` finds one for `vectors`
    patience: Thousands = 20  # calls in a row without a new member before the pool counts as saturated

    @model_validator(mode="after")
    def _one_each(self) -> PersonasSettings:
        if self.benchmark_pairing == "distinct" and self.benchmark_profiles != self.benchmark_personalities:
            raise ValueError(
                f"benchmark_pairing: distinct pairs profiles and personalities one to one, there are "
                f"{self.benchmark_profiles} and {self.benchmark_personalities}; give benchmark_profiles and "
                "benchmark_personalities the same number"
            )
        return self


class ConversationsSettings(Section):
    """How many trees, how deep, and how many are written at once."""

    count: Positive = 3310
    turns: Several = 10
    concurrency: AtOnce = 8
    hint: bool = True  # one of the two replies is written with the inferred persona; False: two plain draws
    verify_twice: bool = False  # ask the verifier in both orders; replies on which it disagrees are drawn again
    branch: Branching = "random"  # both: the user answers both replies in the first `branch_depth` turns
    branch_depth: Annotated[int, Field(gt=0, le=12)] = 1  # every turn of it doubles the conversation
    batch: bool = False  # through the Gemini Batch API at half price, turns advancing in waves; provider genai only
    validation_fraction: Fraction = 0.05

    @model_validator(mode="after")
    def _deep_enough(self) -> ConversationsSettings:
        if self.branch == "both" and self.branch_depth > self.turns:
            raise ValueError(f"branch_depth: {self.branch_depth} is more than the {self.turns} turns there are (turns)")
        return self


class DatagenSettings(Section):
    """`python -m datagen`."""

    output: PathText  # directory of journal.sqlite and the data sets
    seed: Seed = 0
    max_cost: Dollars | None = None  # dollars that one run may spend; stops cleanly
    max_calls: Positive | None = None  # calls that one run may make; stops cleanly
    personas: PersonasSettings = PersonasSettings()
    conversations: ConversationsSettings = ConversationsSettings()
    roles: RolesSettings = RolesSettings()

    @field_validator("output")
    @classmethod
    def _on_a_disk(cls, output: str) -> str:
        if is_remote(output):
            raise ValueError(
                f"{output} is in a bucket, where a journal cannot be kept; give a local directory, and copy its tfds/ "
                "with gcloud storage rsync --recursive"
            )
        return output
