"""A training run, from settings to the last checkpoint: the same loop for SFT and DPO."""

from __future__ import annotations

import contextlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import click
import jax
from jax.sharding import Mesh

from aloe_jax.data.loader import Batch, evaluation_batches
from aloe_jax.models.checkpoint_files import check_step, checkpoint_steps
from aloe_jax.models.digest import weights_digest
from aloe_jax.models.run_directory import FINISHED
from aloe_jax.parallel import distributed
from aloe_jax.parallel.distributed import place
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.storage.files import write_atomically
from aloe_jax.storage.locks import Lock
from aloe_jax.storage.mirror import Mirror
from aloe_jax.training import host_memory, objectives, start
from aloe_jax.training.base import check_base
from aloe_jax.training.checkpoint import Checkpoints
from aloe_jax.training.claim import check_output, claim_directory, claimed
from aloe_jax.training.display import COMPILING, LOG, Display
from aloe_jax.training.master import MasterCopies
from aloe_jax.training.memory import largest_array
from aloe_jax.training.metrics import RECORDS, MetricsLog, Throughput, Work
from aloe_jax.training.optimizer import learning_rate, make_optimizer
from aloe_jax.training.plan import make_plan
from aloe_jax.training.profiling import Profiling, check_window
from aloe_jax.training.readings import read_steps, validated
from aloe_jax.training.reference import ReferenceCache
from aloe_jax.training.room import check_memory
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.step import Params, evaluation_step, logps_step, new_state, train_step
from aloe_jax.training.stopping import Stop
from aloe_jax.training.totals import add, read
from aloe_jax.training.tracking import FILE as WANDB
from aloe_jax.training.tracking import check_wandb


def run(settings: TrainSettings, dry_run: bool = False) -> None:
    """Train as configured, resuming what is there. Raises AloeError on anything that a person can mend.

    In a run of several processes every one of them calls this; see parallel/distributed.py.
    """
    distributed.join()
    with distributed.only_lead_tells():
        distributed.lead_checks(lambda: check_output(settings.output))
        mesh = make_mesh(settings.mesh)
        with contextlib.nullcontext() if dry_run else claimed(settings.output) as lock:
            _run(settings, mesh, dry_run, lock)


def _run(settings: TrainSettings, mesh: Mesh, dry_run: bool, lock: Lock | None) -> None:
    # ---------------------------------------------------------------- what is asked for, and does it fit?
    if not dry_run:
        directory = claim_directory(settings)
        if settings.steps is not None and settings.steps in checkpoint_steps(directory):
            check_step(directory, settings.steps)
            _finish(directory, settings.steps)
            click.echo(f"{directory}: complete at step {settings.steps}")
            return
    material = start.gather_material(settings)
    spec = start.resolve_spec(settings, material.tokenizer, material.template)
    start.check_fit(settings, spec, material, mesh)
    loader = start.make_loader(settings, material)
    steps = settings.steps or settings.epochs * loader.steps_per_epoch()
    check_window(settings.profile, steps)
    if settings.wandb is not None and distributed.is_lead():
        check_wandb()
    plan = make_plan(settings, spec, mesh, steps, material.train, material.validation)
    click.echo(plan)
    if dry_run:
        return
    check_memory(settings, spec, mesh)

    # ---------------------------------------------------------------- model, optimizer, where we left off
    distributed.lead_checks(lambda: check_base(settings, directory))
    if distributed.is_lead():
        start.describe_model(settings, spec, material.tokenizer, directory)
    with jax.set_mesh(mesh), Stop() as stop, contextlib.ExitStack() as scope:
        graph, params, frozen = start.build_model(settings, spec, mesh)
        shapes = start.trained_shapes(settings, spec)
        checkpoints = scope.enter_context(Checkpoints(directory, settings.checkpoints, shapes, lock))
        done = 0
        if (latest := checkpoints.latest()) is not None:
            done = loader.resume(checkpoints.position(latest))
        if done >= steps:
            _finish(directory, done)
            click.echo(f"{directory}: complete at step {done}")
            return
        quiet = not distributed.is_lead()
        mirror = scope.enter_context(Mirror(directory, () if quiet else (LOG, RECORDS, WANDB)))
        display = scope.enter_context(Display(mirror.local, steps, done, quiet=quiet))
        display.record(str(plan))
        display.note(f"resuming after step {done}" if done else "starting")

        # ------------------------------------------------------------ the reference is data
        validation_extra: Batch = {}
        if settings.stage == "dpo" and objectives.needs_reference(settings.dpo.loss):
            # New adapters add nothing, so with them the model is the reference: no second copy of the weights.
            weights = frozen[0] if frozen else params
            cache = ReferenceCache(
                settings.dpo.reference_cache or directory.parent / "reference-logps",
                weights_digest(weights, start.describe_reference(settings, spec, material.tokenizer)),
            )
            compute = partial(_on_devices, logps_step(graph, mesh, frozen), params, mesh)
            extra = {}
            for split, prepared in (("train", material.train), ("validation", material.validation)):
                with display.stage(f"reference log-probs, {split}") as progress:
                    logps = cache.for_rows(prepared.rows, settings.data.rows, compute, progress)
                extra[split] = {"reference": logps}
            loader = start.make_loader(settings, material, extra["train"])
            validation_extra = extra["validation"]
            del compute, weights  # they hold the parameters, which the first step donates

        # ------------------------------------------------------------ the compiled parts
        objective = objectives.for_stage(settings, start.most_turns(material))
        optimizer = MasterCopies(make_optimizer(settings.optimizer, steps))
        state = new_state(params, optimizer, mesh)
        if done:
            state = checkpoints.restore(done, state)
        checkpoints.check_room(state)  # before the first step, not at the first save
        pieces = host_memory.in_pieces(mesh, largest_array(settings, spec, mesh, material.train.rows))
        step = train_step(graph, objective, optimizer, state, mesh, frozen, settings.data.accumulate, pieces)
        evaluate = evaluation_step(graph, objective, mesh, frozen)
        validation = evaluation_batches(material.validation.rows, settings.data.rows, validation_extra)

        # ------------------------------------------------------------ the loop
        resolved = settings.model_dump(mode="json")
        log = scope.enter_context(
            MetricsLog(mirror.local, done, project=settings.wandb, resolved=resolved, quiet=quiet)
        )
        profiling = scope.enter_context(Profiling(settings.profile, mirror.local, display.note))
        rate = learning_rate(settings.optimizer, steps)
        work, throughput = Work.of(loader.rows, spec, settings.model.lora), Throughput(list(mesh.devices.flat))
        share = distributed.rows_here(mesh, settings.data.rows)
        pending: list[tuple[int, Any]] = []  # totals still on the devices
        for number in range(done, steps):
            reached = number + 1
            batch = place(loader.batch(number, share), mesh, settings.data.rows)
            profiling.before(reached)
            with display.stage(COMPILING) if number == done else contextlib.nullcontext():
                with jax.transfer_guard("disallow"):
                    state, totals = step(state, batch)
                if number == done:
                    jax.block_until_ready(totals)
                    if mesh.devices.flat[0].platform == "cpu":
                        host_memory.keep_freed()
            profiling.after(reached, totals)
            pending.append((number, totals))
            if number == done:
                throughput.read()  # the time of compiling is not training time
            else:
                throughput.add(*work.over(loader.indices(number)))

            # Asked once a step: a signal that comes later in the step is acted on, save included, in the next one.
            stopped = stop.asked(reached)
            last = reached == steps or stopped is not None
            if reached % settings.log_every == 0 or last:
                values, speed = read_steps(pending, loader, log, rate, directory), throughput.read()
                log.write_speed(reached, speed)
                display.step(reached, values | speed)
                pending = []
            validation_loss = None
            if reached % settings.evaluate_every == 0 or reached == steps:
                jax.block_until_ready(pending)  # the steps' time is not the validation's
                with display.stage("validating"):
                    values = _validate(evaluate, state["params"], validation, mesh, reached)
                log.write(reached, "validation", values)
                display.validation(reached, values)
                validation_loss = values.get("loss")
                throughput.read()  # the time of an evaluation is not training time
            if reached % settings.checkpoints.every == 0 or last:
                if pending:  # never save a state whose loss nobody has looked at
                    read_steps(pending, loader, log, rate, directory)
                    pending = []
                with display.stage("saving"):
                    mirror.publish()  # first: a resumed run goes on with the records of the steps before it
                    checkpoints.save(reached, state, loader.position(reached), validation_loss)
            if last:
                break
        with display.stage("saving"):
            checkpoints.wait()
        if reached < steps:
            display.note(f"stopped by {stopped}: saved at step {reached}; run the same command to go on")
        else:
            mirror.publish()
            _finish(directory, reached)
            display.note(f"{directory}: complete at step {reached}")


def _finish(directory: Path, step: int) -> None:
    """Mark a run as complete."""
    if distributed.is_lead():
        write_atomically(directory / FINISHED, json.dumps({"step": step}) + "\n")


def _validate(evaluate: Any, params: Params, batches: list[Batch], mesh: Mesh, step: int) -> dict[str, float]:
    totals, *more = (_on_devices(evaluate, params, mesh, batch) for batch in batches)
    for each in more:
        totals = add(totals, each)
    return validated(read(totals), step)


def _on_devices(step: Any, params: Params, mesh: Mesh, batch: Batch) -> Any:
    return step(params, place(batch, mesh))
