"""The stages of the demo as commands, in order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "demo"


@dataclass(frozen=True)
class DemoStage:
    """One command of the demo: what it does, its arguments, and overrides that make it tiny."""

    name: str
    does: str
    arguments: tuple[str, ...]
    config: str | None = None
    miniature: tuple[str, ...] = ()


def stages(root: Path) -> list[DemoStage]:
    """The line from personas to an exported model, with all its files under `root`."""
    data, trees = root / "data", root / "data/tfds/aloe_trees/1.0.0"
    small_model = "model.architecture={layers: 1, width: 32, query_heads: 2, kv_heads: 1, feed_forward: 64}"
    small_data = (
        "personas.profiles=4",
        "personas.personalities=4",
        "personas.personalities_per_profile=2",
        "personas.benchmark_profiles=2",
        "personas.benchmark_personalities=2",
        "conversations.count=8",
        "conversations.turns=3",
        "conversations.validation_fraction=0.25",
    )
    small_run = ("steps=4", "log_every=2", "evaluate_every=4", "checkpoints.every=2", "data.rows=8")

    def datagen(verb: str, does: str) -> DemoStage:
        return DemoStage(verb, does, ("datagen", verb, f"output={data}"), "data.yaml", small_data)

    def train(name: str, does: str, model: str, *miniature: str) -> DemoStage:
        arguments = ("aloe_jax.train", f"output={root / name}", f"data.path={trees}", model)
        return DemoStage(name, does, arguments, f"{name}.yaml", (*small_run, *miniature))

    models = [f"models.{name}.path={root / name}" for name in ("base", "sft", "dpo")]
    return [
        datagen("personas", "personas: profiles and personalities, grown and filtered"),
        datagen("conversations", "conversation trees: user, inducer, responder and verifier talk"),
        datagen("build", "data sets for training and the benchmark"),
        DemoStage(
            "tokenizer",
            "a tokenizer trained on the conversations",
            ("aloe_jax.data.tokenizer", "--data", str(trees), "--output", str(root / "tokenizer"), "--vocab", "1200"),
        ),
        train(
            "base",
            "a base model, from scratch, on replies that know nothing of the persona",
            f"model.tokenizer={root / 'tokenizer'}",
            small_model,
        ),
        train("sft", "SFT on the preferred replies", f"model.path={root / 'base'}"),
        train("dpo", "DPO on the pairs of every turn", f"model.path={root / 'sft'}"),
        DemoStage(
            "benchmark",
            "the ALOE benchmark of all three on held-out personas",
            (
                "aloe_jax.evaluate",
                f"output={root / 'benchmark'}",
                f"personas={data / 'tfds/aloe_personas/1.0.0'}",
                *models,
            ),
            "evaluate.yaml",
            ("cases=4", "turns=3", "bootstrap=200", "sampling.max_new_tokens=8"),
        ),
        DemoStage(
            "export",
            "the DPO model as a Hugging Face directory",
            ("aloe_jax.export", "--checkpoint", str(root / "dpo"), "--output", str(root / "export")),
        ),
    ]


def command_line(stage: DemoStage, miniature: bool) -> list[str]:
    """The stage's command as a person would type it, after the interpreter."""
    module, *rest = stage.arguments
    verb = [rest.pop(0)] if module == "datagen" else []
    config = ["--config", str(CONFIGS / stage.config)] if stage.config else []
    return ["-m", module, *verb, *config, *rest, *(stage.miniature if miniature else ())]
