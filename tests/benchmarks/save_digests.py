"""What the digests of a checkpoint cost its save: `python -m tests.benchmarks.save_digests`.

Saves of the same 768 MiB (weights and two moments) into the page cache, the fastest disk there is; in each, the time
of the digests beside the time of all the rest. No step waits for either: both run in the background of training.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import click

from tests.benchmarks.peers.environments import own_directory

WANTED = 0.05


@click.command()
@click.option("--rounds", default=15, show_default=True)
def main(rounds: int) -> None:
    """Print the share of the digests in the CPU and wall time of a save; fails where the CPU's median exceeds 5%."""
    import jax

    from aloe_jax.models import checkpoint_files
    from aloe_jax.training import checkpoint
    from aloe_jax.training.settings import CheckpointSettings

    shapes = {f"weight_{i}": (1024, 16384) for i in range(4)}
    params = {name: jax.random.normal(jax.random.key(i), shape) for i, (name, shape) in enumerate(shapes.items())}
    moments = {"m": jax.tree.map(lambda x: x + 1, params), "v": jax.tree.map(lambda x: x * x, params)}
    state = {"params": params, "optimizer": moments}
    jax.block_until_ready(state)
    digests: list[tuple[float, float]] = []

    def timed(checkpoints: Path, step: int) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        checkpoint_files.record_digests(checkpoints, step)
        digests.append((time.process_time() - cpu, time.perf_counter() - wall))

    checkpoint.record_digests = timed
    shares: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        directory = Path(tempfile.mkdtemp(dir=own_directory(), prefix="saves-"))
        try:
            with checkpoint.Checkpoints(directory, CheckpointSettings(), shapes) as checkpoints:
                cpu, wall = time.process_time(), time.perf_counter()
                checkpoints.save(1, state, {"step": 1}, None)
                checkpoints.wait()
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        if number:  # the first one warms up
            own_cpu, own_wall = digests[-1]
            shares.append((own_cpu / (cpu - own_cpu), own_wall / (wall - own_wall)))
    cpu_share, wall_share = (statistics.median(column) for column in zip(*shares, strict=True))
    low, high = min(share for share, _ in shares), max(share for share, _ in shares)
    click.echo(f"digests: {cpu_share:.1%} of a save's CPU time ({low:.1%} to {high:.1%}), {wall_share:.1%} of its time")
    if cpu_share > WANTED:
        raise click.ClickException(f"wanted at most {WANTED:.0%} of a save's CPU time")


if __name__ == "__main__":
    main()
