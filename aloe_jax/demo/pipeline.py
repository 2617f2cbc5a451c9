"""The stages of the demo as commands, in order, and how one is run: as a process, recorded when it is done."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

import click

from aloe_jax.cli.command import debugging
from aloe_jax.errors import AloeError
from aloe_jax.storage.files import write_atomically
from aloe_jax.sweep.process import run_command

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
        "personas.benchmark_profiles=4",
        "personas.benchmark_personalities=4",
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

    people = data / "tfds/aloe_personas/1.0.0"
    small_rollouts = (
        "rl.heldout=1",
        "rl.conversations=2",
        "rl.group=2",
        "rl.turns=3",
        "rl.draw.max_new_tokens=8",
        "data.accumulate=1",
    )
    paths = {name: root / name for name in ("base", "sft", "dpo", "rl")} | {"rl-last_message": root / "rl"}
    models = [f"models.{name}.path={path}" for name, path in paths.items()]
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
            "rl",
            "on-policy RL: the model talks to simulated users and learns from what they make of it",
            ("aloe_jax.train", f"output={root / 'rl'}", f"model.path={root / 'dpo'}", f"rl.personas={people}"),
            "rl.yaml",
            (*small_run, *small_rollouts),
        ),
        DemoStage(
            "benchmark",
            "the ALOE benchmark of all four on held-out personas, and of a control without history",
            (
                "aloe_jax.evaluate",
                f"output={root / 'benchmark'}",
                f"personas={people}",
                *models,
            ),
            "evaluate.yaml",
            ("cases=4", "turns=3", "bootstrap=200", "sampling.max_new_tokens=8"),
        ),
        DemoStage(
            "export",
            "the last model as a Hugging Face directory",
            ("aloe_jax.export", "--checkpoint", str(root / "rl"), "--output", str(root / "export")),
        ),
    ]


def command_line(stage: DemoStage, miniature: bool) -> list[str]:
    """The stage's command as a person would type it, after the interpreter."""
    module, *rest = stage.arguments
    verb = [rest.pop(0)] if module == "datagen" else []
    config = ["--config", str(CONFIGS / stage.config)] if stage.config else []
    return ["-m", module, *verb, *config, *rest, *(stage.miniature if miniature else ())]


def run_stage(stage: DemoStage, command: list[str], stamp: Path, digest: str, number: str) -> None:
    """Run one stage unless its stamp says that it is done. Raises AloeError when it fails, or on another stamp."""
    title = f"[{number}] {stage.does}"
    if stamp.exists():
        before, seconds = read_stamp(stamp)
        if before != digest:
            raise AloeError(
                f"{stamp.parent.parent}: made with other settings (stage {stage.name} differs); remove it, or give "
                "another --output"
            )
        click.echo(f"{title}: done before, in {seconds:.0f} s")
        return
    click.secho(f"\n{title}", bold=True)
    click.echo(f"$ python {shlex.join(command)}")
    start = time.perf_counter()
    cache = stamp.parent.parent / "compiled"
    environment = {"JAX_COMPILATION_CACHE_DIR": str(cache.absolute())} | ({"ALOE_DEBUG": "1"} if debugging() else {})
    status = run_command(command, environment)
    if status:
        raise AloeError(f"stage {stage.name} stopped with status {status}; run the same command to go on from there")
    write_atomically(stamp, json.dumps({"digest": digest, "seconds": time.perf_counter() - start}))


def read_stamp(stamp: Path) -> tuple[str, float]:
    """The digest of a finished stage's command and those before it, and its seconds. Raises AloeError."""
    try:
        found = json.loads(stamp.read_bytes())
        return str(found["digest"]), float(found["seconds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AloeError(f"{stamp}: cannot be read ({error}); remove it, and the stage is looked at again") from None
