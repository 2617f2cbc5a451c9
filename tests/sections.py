"""Every group of settings that there is, and the smallest settings of a training run."""

from importlib import import_module

from aloe_jax.settings import Section

MINIMAL = "stage: sft\noutput: runs/x\ndata: {path: d.jsonl}\nmodel: {tokenizer: t}\n"
OWNERS = ("models", "parallel", "data", "training", "llm", "sampling", "benchmark")


def sections() -> list[type[Section]]:
    """All subclasses of Section in the modules of settings."""
    for owner in OWNERS:
        import_module(f"aloe_jax.{owner}.settings")
    import_module("datagen.settings")
    return sorted(set(_below(Section)), key=lambda section: section.__name__)


def _below(kind: type[Section]) -> list[type[Section]]:
    return [found for one in kind.__subclasses__() for found in (one, *_below(one))]
