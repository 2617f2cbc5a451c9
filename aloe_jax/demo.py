"""The whole line on one CPU machine, stage by stage, with simulated people: `python -m aloe_jax.demo`.

Every stage is a command that a person could type; this file only types them, in order, and remembers which are
done. A stage that was killed resumes by itself when its command is given again.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aloe_jax.command import Command, debugging, one_line_errors
from aloe_jax.errors import AloeError
from aloe_jax.storage.files import write_atomically

if TYPE_CHECKING:
    from aloe_jax.report.gathering import Report

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "demo"


@dataclass(frozen=True)
class Stage:
    """One command of the demo: what it does, its arguments, and overrides that make it tiny."""

    name: str
    does: str
    arguments: tuple[str, ...]
    config: str | None = None
    miniature: tuple[str, ...] = ()


def stages(root: Path) -> list[Stage]:
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

    def datagen(verb: str, does: str) -> Stage:
        return Stage(verb, does, ("datagen", verb, f"output={data}"), "data.yaml", small_data)

    def train(name: str, does: str, model: str, *miniature: str) -> Stage:
        arguments = ("aloe_jax.train", f"output={root / name}", f"data.path={trees}", model)
        return Stage(name, does, arguments, f"{name}.yaml", (*small_run, *miniature))

    models = [f"models.{name}.path={root / name}" for name in ("base", "sft", "dpo")]
    return [
        datagen("personas", "personas: profiles and personalities, grown and filtered"),
        datagen("conversations", "conversation trees: user, inducer, responder and verifier talk"),
        datagen("build", "data sets for training and the benchmark"),
        Stage(
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
        Stage(
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
        Stage(
            "export",
            "the DPO model as a Hugging Face directory",
            ("aloe_jax.export", "--checkpoint", str(root / "dpo"), "--output", str(root / "export")),
        ),
    ]


@click.command(cls=Command)
@click.option("--output", default="runs/demo", show_default=True, help="Directory for everything the demo makes.")
@click.option("--miniature", is_flag=True, help="Tiny sizes: every stage runs, nothing is learned. For tests.")
def main(output: str, miniature: bool) -> None:
    """Run the whole line on this machine: personas, trees, base model, SFT, DPO, benchmark, report, export.

    The people in it are simulated: a scripted provider plays users, responders, verifier and judge, offline and
    deterministically. The models are real and trained here from scratch. Give the same command again to resume
    after a stop, or to see the summary of a finished demo.

    Example: python -m aloe_jax.demo --output runs/demo
    """
    with one_line_errors():
        root = Path(output)
        if not CONFIGS.is_dir():
            raise AloeError(f"{CONFIGS}: the demo's configs are not here; run it from a checkout of the project")
        (root / "stages").mkdir(parents=True, exist_ok=True)
        plan = stages(root)
        done = ""  # digest of all commands so far: a stage's stamp counts only after the same stages before it
        for number, stage in enumerate(plan, start=1):
            command = command_line(stage, miniature)
            config = (CONFIGS / stage.config).read_text() if stage.config else ""
            done = hashlib.sha256(f"{done} {command} {config}".encode()).hexdigest()[:16]
            run_stage(stage, command, root / "stages" / f"{stage.name}.json", done, f"{number}/{len(plan)}")
        write_atomically(root / "metrics.json", (root / "benchmark/metrics.json").read_bytes())
        click.echo(summary(root, plan, write_report(root)))


def command_line(stage: Stage, miniature: bool) -> list[str]:
    """The stage's command as a person would type it, after the interpreter."""
    module, *rest = stage.arguments
    verb = [rest.pop(0)] if module == "datagen" else []
    config = ["--config", str(CONFIGS / stage.config)] if stage.config else []
    return ["-m", module, *verb, *config, *rest, *(stage.miniature if miniature else ())]


def run_stage(stage: Stage, command: list[str], stamp: Path, digest: str, place: str) -> None:
    """Run one stage unless its stamp says that it is done. Raises AloeError when it fails, or on another stamp."""
    title = f"[{place}] {stage.does}"
    if stamp.exists():
        stamped = read_stamp(stamp)
        if stamped["digest"] != digest:
            raise AloeError(
                f"{stamp.parent.parent}: made with other settings (stage {stage.name} differs); remove it, or give "
                "another --output"
            )
        click.echo(f"{title}: done before, in {stamped['seconds']:.0f} s")
        return
    click.secho(f"\n{title}", bold=True)
    click.echo(f"$ python {shlex.join(command)}")
    start = time.perf_counter()
    cache = stamp.parent.parent / "compiled"
    environment = (
        os.environ
        | ({"ALOE_DEBUG": "1"} if debugging() else {})
        | {"JAX_COMPILATION_CACHE_DIR": str(cache.absolute()), "PYTHONUNBUFFERED": "1"}
    )
    child = [sys.executable, *command]
    status = subprocess.run(child, env=environment, check=False, preexec_fn=die_with_parent).returncode
    if status:
        raise AloeError(f"stage {stage.name} stopped with status {status}; run the same command to go on from there")
    write_atomically(stamp, json.dumps({"digest": digest, "seconds": time.perf_counter() - start}))


def read_stamp(stamp: Path) -> dict[str, Any]:
    """What is noted of a finished stage. Raises AloeError where that was damaged."""
    try:
        found = json.loads(stamp.read_bytes())
        return {"digest": str(found["digest"]), "seconds": float(found["seconds"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AloeError(f"{stamp}: cannot be read ({error}); remove it, and the stage is looked at again") from None


def die_with_parent() -> None:
    """In a child on Linux: end when the demo is killed, so that a restarted demo never meets its own orphan."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def write_report(root: Path) -> Report:
    """Write report.html from the benchmark's results, and the tables to paste beside it."""
    from aloe_jax.report.gathering import gather
    from aloe_jax.report.page import write_page
    from aloe_jax.report.tables import latex, markdown

    report = gather([root / "benchmark"])
    write_page(report, root / "report.html")
    write_atomically(root / "report.md", markdown(report))
    write_atomically(root / "report.tex", latex(report))
    return report


def summary(root: Path, plan: list[Stage], report: Report) -> str:
    """What was made, what it showed, and what was simulated."""
    from aloe_jax.report.terminal import difference

    times = {s.name: read_stamp(root / "stages" / f"{s.name}.json")["seconds"] for s in plan}
    models = json.loads((root / "metrics.json").read_text())["models"]
    lines = ["", "Time      " + "  ".join(f"{name} {seconds:.0f} s" for name, seconds in times.items())]
    lines.append(f"          {sum(times.values()) / 60:.1f} minutes in all")
    for name, values in models.items():
        lines.append(f"{name:<10}" + alignment(values))
    lines += [f"{'Average' if number == 0 else '':<10}{difference(pair)}" for number, pair in enumerate(report.pairs)]
    lines += [
        f"Report    {root / 'report.html'} (its tables in report.md and report.tex)",
        f"Numbers   {root / 'metrics.json'}",
        f"Model     {root / 'export'} (Hugging Face format)",
        "",
        "Simulated: the personas, the users, both responders, the verifier and the judge are a scripted world,",
        "and so are the reference lines generic and informed. The numbers say that the line works from end to end;",
        "they say nothing about people. Trained and measured for real: base, sft and dpo.",
    ]
    return "\n".join(lines)


def alignment(values: dict) -> str:
    """One model's average AL and improvement rate with their 95% intervals, as text."""

    def told(estimate: dict, form: str) -> str:
        value, low, high = (estimate[key] for key in ("value", "low", "high"))
        if value is None:
            return "undefined"
        return f"{value:{form}}" + (f" [{low:{form}}, {high:{form}}]" if low is not None else "")

    return f"average AL {told(values['average'], '.2f')}   IR {told(values['ir'], '+.3f')}"


if __name__ == "__main__":
    main()
