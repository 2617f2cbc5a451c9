"""A training run, from settings to the last checkpoint: the same loop for SFT and DPO."""

from __future__ import annotations

import json
import signal
from functools import partial
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np
from jax.sharding import Mesh

from aloe_jax import config
from aloe_jax.data.loader import Batch, Loader, evaluation_batches
from aloe_jax.errors import AloeError
from aloe_jax.models.run_directory import checkpoint_steps, save_adapter, save_spec, write_atomically
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.training import objectives, start
from aloe_jax.training.checkpoint import Checkpoints
from aloe_jax.training.metrics import MetricsLog, Throughput, tell
from aloe_jax.training.optimizer import learning_rate, make_optimizer
from aloe_jax.training.reference import ReferenceCache, reference_fingerprint
from aloe_jax.training.step import (
    Params,
    evaluation_step,
    logps_step,
    mean_over,
    new_state,
    place,
    train_step,
)


def run(settings: config.Train, dry_run: bool = False) -> None:
    """Train as configured, resuming what is there. Raises AloeError on anything that a person can mend."""
    # ---------------------------------------------------------------- what is asked for, and does it fit?
    mesh = make_mesh(settings.mesh)
    if not dry_run:
        directory = start.claim_directory(settings)
        if settings.steps is not None and settings.steps in checkpoint_steps(directory):
            click.echo(f"{directory}: complete at step {settings.steps}")
            return
    material = start.gather_material(settings)
    spec = start.resolve_spec(settings, material.tokenizer, material.template)
    start.check_fit(settings, spec, material, mesh)
    loader = Loader(material.train.rows, settings.data.rows, settings.seed)
    steps = settings.steps or settings.epochs * loader.steps_per_epoch()
    click.echo(start.plan(settings, spec, material, mesh, steps))
    if dry_run:
        return

    # ---------------------------------------------------------------- model, optimizer, where we left off
    save_spec(spec, directory)
    if settings.model.lora is not None:
        save_adapter(directory, settings.model)
    material.tokenizer.save_pretrained(directory / "tokenizer")
    with jax.set_mesh(mesh), Stop() as stop:
        graph, params, frozen = start.build_model(settings, spec, mesh)
        checkpoints = Checkpoints(directory, settings.checkpoints, start.trained_shapes(settings, spec))
        done = 0
        if (latest := checkpoints.latest()) is not None:
            done = loader.resume(checkpoints.position(latest))
            click.echo(f"resuming after step {done}")
        if done >= steps:
            click.echo(f"{directory}: complete at step {done}")
            return

        # ------------------------------------------------------------ the reference is data
        validation_extra: Batch = {}
        if settings.stage == "dpo":
            description = start.describe_reference(spec, material.tokenizer)
            # New adapters add nothing, so with them the model is the reference: no second copy of the weights.
            cache = ReferenceCache(directory / "reference", reference_fingerprint((params, *frozen), description))
            compute = partial(_on_devices, logps_step(graph, frozen), params, mesh)
            extra = {
                split: {
                    "reference": cache.for_rows(
                        rows, settings.data.rows, compute, start.progress_to(f"reference log-probs, {split}")
                    )
                }
                for split, rows in (("train", material.train.rows), ("validation", material.validation.rows))
            }
            loader = Loader(material.train.rows, settings.data.rows, settings.seed, extra["train"])
            validation_extra = extra["validation"]
            del compute  # it holds the parameters, which the first step donates

        # ------------------------------------------------------------ the compiled parts
        objective = objectives.for_stage(settings)
        optimizer = make_optimizer(settings.optimizer, steps)
        state = new_state(params, optimizer, mesh)
        if done:
            state = checkpoints.restore(done, state)
        checkpoints.check_room(state)  # before the first step, not at the first save
        step = train_step(graph, objective, optimizer, state, frozen)
        evaluate = evaluation_step(graph, objective, frozen)
        validation = evaluation_batches(material.validation.rows, settings.data.rows, validation_extra)

        # ------------------------------------------------------------ the loop
        log = MetricsLog(directory, done)
        rate = learning_rate(settings.optimizer, steps)
        throughput = Throughput(list(mesh.devices.flat))
        # Useful work only: FLOPs of padding would flatter the utilisation.
        attended = start.attended_pairs(loader.rows) / loader.rows.length.sum()  # keys an average token sees
        pending: list[tuple[int, Any]] = []  # metrics still on the devices
        for number in range(done, steps):
            batch = loader.batch(number)
            with jax.transfer_guard("disallow"):
                state, metrics = step(state, place(batch, mesh))
            pending.append((number, metrics))
            tokens = int(batch["length"].sum())
            flops = 3 * spec.forward_flops(tokens, round(tokens * attended))
            throughput.add(tokens, int((batch["pair_turn"] > 0).sum()), flops)
            reached = number + 1

            # Asked once a step: a signal that comes later in the step is acted on, save included, in the next one.
            last = reached == steps or stop.requested is not None
            if reached % settings.log_every == 0 or last:
                values = _read(pending, loader, log, rate, directory)
                tell(f"step {reached}/{steps}", values | throughput.read())
                pending = []
            validation_loss = None
            if reached % settings.evaluate_every == 0 or reached == steps:
                validation_loss = _validate(evaluate, state["params"], validation, mesh, log, reached)
                throughput.read()  # the time of an evaluation is not training time
            if reached % settings.checkpoints.every == 0 or last:
                if pending:  # never save a state whose loss nobody has looked at
                    _read(pending, loader, log, rate, directory)
                    pending = []
                checkpoints.save(reached, state, loader.position(reached), validation_loss)
            if last:
                break
        checkpoints.close()
        log.close()
        if reached < steps:
            click.echo(f"stopped by {stop.requested}: saved at step {reached}; run the same command to go on")
        else:
            click.echo(f"{directory}: complete at step {reached}")


def _read(
    pending: list[tuple[int, Any]], loader: Loader, log: MetricsLog, rate: Any, directory: Path
) -> dict[str, float]:
    """Fetch and log the metrics of the last steps; their means. Stops the run on a loss that is not finite."""
    fetched = jax.device_get([metrics for _, metrics in pending])
    rows: list[dict[str, float]] = []
    for (number, _), metrics in zip(pending, fetched, strict=True):
        values = {name: float(value) for name, value in metrics.items()}
        if not (np.isfinite(values["loss"]) and np.isfinite(values["grad_norm"])):
            ids = [tree for row in loader.indices(number) for tree in loader.rows.tree_ids[row]]
            path = directory / f"nonfinite-{number + 1}.json"
            write_atomically(path, json.dumps({"step": number + 1, "metrics": str(values), "trees": ids}, indent=1))
            raise AloeError(
                f"{path}: the loss or gradient of step {number + 1} is not finite; the file names its conversations. "
                "Lower optimizer.learning_rate, or take the conversation out, and run again from the last checkpoint"
            )
        values["learning_rate"] = float(rate(number))
        log.write(number + 1, "train", values)
        rows.append(values)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _validate(evaluate: Any, params: Params, batches: list[Batch], mesh: Mesh, log: MetricsLog, reached: int) -> float:
    values = mean_over([_on_devices(evaluate, params, mesh, batch) for batch in batches])
    log.write(reached, "validation", values)
    tell(f"validation at step {reached}", values)
    return values["loss"]


def _on_devices(step: Any, params: Params, mesh: Mesh, batch: Batch) -> Any:
    return step(params, place(batch, mesh))


class Stop:
    """SIGTERM (a preempted machine) or the first Ctrl-C: finish the step, save, leave with status 0."""

    def __init__(self) -> None:
        self.requested: str | None = None

    def __enter__(self) -> Stop:
        self._before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _: object) -> None:
        self.requested = signal.Signals(number).name
        self._restore()  # a second signal acts at once

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
