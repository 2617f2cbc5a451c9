"""`aloe demo`: all stages of the demo, one after the other; stages that are done are not run again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from aloe_jax.cli.command import Command
from aloe_jax.demo.pipeline import CONFIGS, command_line, run_stage, stages
from aloe_jax.errors import AloeError
from aloe_jax.storage.files import write_atomically


@click.command(cls=Command)
@click.option("--output", default="runs/demo", show_default=True, help="Directory for everything the demo makes.")
@click.option("--miniature", is_flag=True, help="Tiny sizes: every stage runs, nothing is learned. For tests.")
def main(output: str, miniature: bool) -> None:
    """Run the whole line on this machine: personas, trees, base model, SFT, DPO, RL, benchmark,
    report, export.

    The people in it are simulated: a scripted provider plays users, responders, verifier and judge, offline and
    deterministically. The models are real and trained from scratch. Give the same command again to resume
    after a stop, or to see the summary of a finished demo.

    Example: python -m aloe_jax.demo --output runs/demo
    """
    from aloe_jax.demo.summary import summary, write_report

    root = Path(output)
    if not CONFIGS.is_dir():
        raise AloeError(f"{CONFIGS}: the demo's configs are not there; run it from a checkout of the project")
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
