"""Token trees against our own padded pairs: `python -m tests.benchmarks.quick`, the gate against getting slower.

The same model, step and pairs on both sides, in processes that take turns: conversations as trees in rows, and every
pair as two sequences of its own, padded and grouped by length. Fails when trees are less than six times as fast; where
others use the machine, by CPU seconds.
"""

from __future__ import annotations

import os
import shutil
import tempfile

import click

from tests.benchmarks.peers.contest import check_quiet, compete, ready, speed_ratio, table
from tests.benchmarks.peers.contestants import OURS, PAIRS
from tests.benchmarks.peers.environments import own_directory
from tests.benchmarks.peers.models import write_models
from tests.benchmarks.peers.task import Task

WANTED = 6.0


@click.command()
@click.option("--vocab", default=8192, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--cores", default=2, show_default=True, help="How many cores both sides get.")
@click.option("--busy", is_flag=True, help="Measure though the machine is not quiet, in CPU seconds.")
def main(vocab: int, rounds: int, cores: int, busy: bool) -> None:
    """Print both sides' pairs per second and their ratio."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # what is started inherits it
    check_quiet(busy)
    directory = tempfile.mkdtemp(dir=own_directory(), prefix="models-")
    task = Task(directory, vocab)
    try:
        write_models(task)
        click.echo(f"DPO, vocabulary {vocab:,}, {task.conversations} conversations of {task.turns} turns")
        with ready((OURS, PAIRS), task, rounds, cores) as sides:
            compete(sides, range(rounds))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    click.echo("\n".join(table(sides[0], sides, "pairs")))
    ratio = speed_ratio(*sides, clock="cpu" if busy else "wall")
    if ratio.median < WANTED:
        raise click.ClickException(f"token trees are {ratio} times as fast as padded pairs, wanted {WANTED}")


if __name__ == "__main__":
    main()
