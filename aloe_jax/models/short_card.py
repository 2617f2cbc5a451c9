"""README.md of a model of which nothing but its shape is known."""

from __future__ import annotations

from aloe_jax.models.spec import ModelSpec

NOT_STATED = "not stated"


def short_card(spec: ModelSpec) -> str:
    """A card for a model of which nothing but its shape is known."""
    return (
        front_matter(NOT_STATED)
        + f"# {spec.title}-architecture decoder, {spec.parameter_count():,} parameters\n\n"
        + f"Written by aloe-jax. Training: {NOT_STATED}. Licence: {NOT_STATED}.\n"
    )


def front_matter(licence: str) -> str:
    """What the Hub reads of a card, with the licence where it is stated."""
    stated = [] if licence == NOT_STATED else [f"license: {licence}"]
    return "\n".join(["---", *stated, "library_name: transformers", "pipeline_tag: text-generation", "---", "", ""])
