"""Our decoder and MaxText's Llama on the same conversations: `python -m tests.benchmarks.backends`.

Both take the same weights through a Hugging Face directory and compute the same DPO step (AdamW, the whole model) on
rows of conversation trees. On this machine's CPU they take turns in one process; pairs a second go by CPU seconds,
which on a busy machine say more than the clock. With libtpu the same steps are compiled for TPUs (`--topology none`:
not), layers unrolled so that the compiler counts them all, and our decoder with its kernel and, as MaxText computes
it, with dense attention. Prints every figure and MaxText's as a part of ours; with `--json FILE` writes them there.

A ratio above 1.3 is no failure: MaxText's attention is dense in rows of trees, so it falls behind as rows get longer.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np
from flax import nnx

from aloe_jax.data.loader import FIELDS
from aloe_jax.data.packing import Rows, pack
from aloe_jax.errors import AloeError
from aloe_jax.models.huggingface import save_pretrained
from aloe_jax.models.native.decoder import DecoderSpec
from aloe_jax.models.opening import open_model
from aloe_jax.models.spec import Compute
from aloe_jax.parallel.distributed import place
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.parallel.topology import BESIDE, QUICK, compile_for, tpu_mesh
from aloe_jax.planning import flops
from aloe_jax.planning.workload import Shape, trees_of
from aloe_jax.training.master import MasterCopies
from aloe_jax.training.optimizer import make_optimizer
from aloe_jax.training.program import abstract_program
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages.stage import stage_of
from aloe_jax.training.start import resolve
from aloe_jax.training.step import new_state, train_step
from tests.random_models import random_decoder

SPEC = DecoderSpec(
    vocab=8192, layers=4, width=256, query_heads=4, kv_heads=2, head_size=64, feed_forward=768, max_length=4096
)
SIDES = ("native", "maxtext")
MOST_APART = 1e-4  # of the losses of the first step


def settings(side: str, path: Path, length: int, rows: int, remat: str, dtype: str) -> TrainSettings:
    """A DPO run of one side."""
    return TrainSettings.model_validate({
        "stage": "dpo", "output": "nowhere",
        "model": {"backend": side, "path": str(path), "remat": remat, "compute_dtype": dtype},
        "data": {"path": "nowhere", "row_length": length, "rows": rows},
    })  # fmt: skip


def drawn_rows(length: int, count: int) -> Rows:
    """`count` rows of conversations of an even shape."""
    trees = trees_of(Shape(conversations=4 * count * max(1, length // 1024), turns=6), "dpo")
    rows, _ = pack(trees, length)
    assert len(rows) >= count
    return rows


def batch_of(rows: Rows, count: int) -> dict[str, np.ndarray]:
    """The first rows with random tokens, and reference log-probs."""
    rng = np.random.default_rng(0)
    batch = {name: np.array(getattr(rows, name)[:count]) for name in FIELDS}
    batch["tokens"] = rng.integers(4, SPEC.vocab, batch["tokens"].shape, np.int32)
    lengths = np.take_along_axis(batch["reply_length"], batch["pairs"].reshape(count, -1), axis=1)
    return batch | {"reference": (-9.0 * lengths.reshape(batch["pairs"].shape)).astype(np.float32)}


class OnCpu:
    """One side's step, compiled for one CPU device and ready to run."""

    def __init__(self, run: TrainSettings, path: Path, rows: Rows) -> None:
        mesh = make_mesh(MeshSettings(fsdp=1), jax.devices()[:1])
        compute = Compute(remat=run.model.remat)
        model: Any = open_model(run.model).load(mesh=mesh, compute=compute)
        graph, params = nnx.split(model, nnx.Param)
        optimizer = MasterCopies(make_optimizer(run.optimizer, 100))
        with jax.set_mesh(mesh):
            self.state = new_state(nnx.to_pure_dict(params), optimizer, mesh)
            step = train_step(graph, stage_of(run).objective(), optimizer, self.state, mesh)
            self.batch = place(batch_of(rows, run.data.rows), mesh, run.data.rows)
            self.compiled = step.compiled.lower(self.state, (), self.batch).compile()
        self.temporary = self.compiled.memory_analysis().temp_size_in_bytes

    def __call__(self) -> tuple[float, float, float]:
        """One step: (loss, seconds by the clock, CPU seconds)."""
        begun = time.perf_counter(), time.process_time()
        self.state, totals = self.compiled(self.state, (), self.batch)
        loss = float(totals["loss"].total / totals["loss"].weight)
        return loss, time.perf_counter() - begun[0], time.process_time() - begun[1]


def on_cpu(path: Path, length: int, count: int, remat: str, rounds: int) -> dict[str, dict[str, float]]:
    """Figures of both sides; they take turns."""
    rows = drawn_rows(length, count)
    pairs = int((rows.pair_turn[:count] > 0).sum())
    sides = {side: OnCpu(settings(side, path, length, count, remat, "float32"), path, rows) for side in SIDES}
    losses = {side: step()[0] for side, step in sides.items()}
    if abs(losses["native"] - losses["maxtext"]) > MOST_APART:
        raise click.ClickException(f"the sides do not compute the same: losses {losses}")
    taken: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in SIDES if number % 2 else SIDES[::-1]:
            taken[side].append(sides[side]()[1:])
    figures = {}
    for side, times in taken.items():
        clock, spent = (statistics.median(values) for values in zip(*times, strict=True))
        figures[side] = {
            "pairs/s by the clock": pairs / clock,
            "CPU-s a pair": spent / pairs,
            "temporary MiB": sides[side].temporary / 2**20,
        }
    return figures


def on_tpu(path: Path, topology: str, length: int, count: int, remat: str) -> dict[str, dict[str, float]]:
    """Figures of both sides as compiled for a slice, in bfloat16; a chip's memory, and operations over all chips."""
    rows = drawn_rows(length, count)
    mesh = tpu_mesh(topology, MeshSettings(fsdp=-1))
    figures = {}
    for name, side, changes in (
        ("native, kernel", "native", {"unroll": SPEC.layers}),
        ("native", "native", {"unroll": SPEC.layers, "attention": "dense"}),
        ("maxtext", "maxtext", {"overrides": {"scan_layers": False}}),
    ):
        run = settings(side, path, length, count, remat, "bfloat16")
        run = run.model_copy(update={"model": run.model.model_copy(update=changes)})
        spec = open_model(run.model).spec()
        run = resolve(run, spec, mesh, "tpu")
        made = abstract_program(run, spec, mesh, rows, 100)
        compiled = compile_for(mesh, made.step.compiled, made.state, made.frozen, made.batch, options=QUICK)
        memory: Any = compiled.memory_analysis()
        scored = rows.scored.shape[1]
        pairs = flops.scores(rows) if name == "native, kernel" else float(length**2)
        figures[name] = {
            "peak MiB a chip": memory.peak_memory_in_bytes / 2**20,
            "GFLOP counted": compiled.cost_analysis()["flops"] * mesh.size / 1e9,  # of a kernel nothing is
            "GFLOP by formula": flops.computed(run, spec, scored, pairs).total / 1e9,
        }
    return figures


def told(title: str, figures: dict[str, dict[str, float]]) -> None:
    """A line a figure, with MaxText's as a part of ours."""
    click.echo(title)
    for what in figures["native"]:
        parts = [f"{side} {values[what]:,.3f}" for side, values in figures.items()]
        click.echo(f"  {what}: {', '.join(parts)}; {figures['maxtext'][what] / figures['native'][what]:.2f}")


@click.command()
@click.option("--length", "lengths", default=(256, 1024, 2048), multiple=True, show_default=True, help="Of a row.")
@click.option("--tokens", default=4096, show_default=True, help="Of a step, in rows of that length.")
@click.option("--remat", default="none", show_default=True)
@click.option("--rounds", default=5, show_default=True, help="On the CPU; 0: not there.")
@click.option("--topology", default="v5e:1x1", show_default=True, help="What to compile for; none: nothing.")
@click.option("--json", "to", type=click.Path(dir_okay=False, path_type=Path))
def main(lengths: tuple[int, ...], tokens: int, remat: str, rounds: int, topology: str, to: Path | None) -> None:
    """Print the figures of both backends."""
    if BESIDE.exists():
        os.environ.setdefault("TPU_LIBRARY_PATH", str(BESIDE))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model"
        save_pretrained(random_decoder(SPEC, deviation=0.05), path)
        for length in lengths:
            count = max(1, tokens // length)
            title = f"{count} rows of {length}, remat {remat}"
            if rounds:
                found[f"cpu, {title}"] = on_cpu(path, length, count, remat, rounds)
                told(f"CPU, {title}", found[f"cpu, {title}"])
            if topology == "none":
                continue
            try:
                found[f"{topology}, {title}"] = on_tpu(path, topology, length, count, remat)
            except AloeError as error:
                raise click.ClickException(str(error)) from None
            told(f"{topology}, {title}", found[f"{topology}, {title}"])
    if to is not None:
        to.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
