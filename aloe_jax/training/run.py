"""A training run, from settings to the last checkpoint, read from top to bottom; the same for every stage."""

from __future__ import annotations

import contextlib
import json
from functools import partial
from pathlib import Path

import click
import jax
from jax.sharding import Mesh

from aloe_jax.data.loader import Batch
from aloe_jax.models.checkpoint_files import check_step, checkpoint_steps
from aloe_jax.models.digest import weights_digest
from aloe_jax.models.run_directory import FINISHED, is_finished
from aloe_jax.parallel import distributed
from aloe_jax.parallel.distributed import place
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.storage.files import write_atomically
from aloe_jax.storage.locks import Lock
from aloe_jax.storage.mirror import Mirror
from aloe_jax.training import host_memory, start
from aloe_jax.training.base import check_base
from aloe_jax.training.checkpoint import Checkpoints
from aloe_jax.training.claim import check_output, claim_directory, claimed
from aloe_jax.training.display import COMPILING, LOG, Display
from aloe_jax.training.loop import loop
from aloe_jax.training.metrics import RECORDS, MetricsLog
from aloe_jax.training.optimizer import learning_rate
from aloe_jax.training.profiling import Profiling, check_window
from aloe_jax.training.program import build_program
from aloe_jax.training.readings import Readings
from aloe_jax.training.reporting import Reporting
from aloe_jax.training.room import check_memory
from aloe_jax.training.saving import Saving
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.source import open_source
from aloe_jax.training.stages import STAGES
from aloe_jax.training.stages.stage import StartingModel, stage_of
from aloe_jax.training.step import Params, Step, new_state
from aloe_jax.training.stopping import Stop
from aloe_jax.training.summary import summarise
from aloe_jax.training.tracking import FILE as WANDB
from aloe_jax.training.tracking import check_wandb


def train(settings: TrainSettings, dry_run: bool = False) -> None:
    """Train as configured, resuming what is there. Raises AloeError on anything that a person can mend.

    In a run of several processes every one of them calls this; see parallel/distributed.py.
    """
    host_memory.use_one_arena()
    distributed.join()
    with distributed.only_lead_tells():
        distributed.lead_checks(lambda: check_output(settings.output))
        mesh = make_mesh(settings.mesh)
        with contextlib.nullcontext() if dry_run else claimed(settings.output) as lock:
            _train(settings, mesh, dry_run, lock)


def _train(settings: TrainSettings, mesh: Mesh, dry_run: bool, lock: Lock | None) -> None:
    # ---------------------------------------------------------------- what is asked for, and does it fit?
    stage = stage_of(settings)
    if not dry_run:
        directory = claim_directory(settings)
        complete = is_finished(directory) or not STAGES[settings.stage].makes_up  # where all steps are done
        if complete and settings.steps is not None and settings.steps in checkpoint_steps(directory):
            check_step(directory, settings.steps)
            _finish(directory, settings.steps)
            click.echo(f"{directory}: complete at step {settings.steps}")
            return
    tokenizer, template = start.load_template(settings.model)
    spec = start.resolve_spec(settings, tokenizer, template)
    given, settings = settings, start.resolve(settings, spec, mesh, mesh.devices.flat[0].platform)
    source = open_source(settings, stage, spec, template, mesh)
    steps = settings.steps or source.steps()
    check_window(settings.profile, steps)
    if settings.wandb is not None and distributed.is_lead():
        check_wandb()
    summary = summarise(settings, spec, mesh, steps, source.rows, source.summary(spec, settings))
    click.echo(summary)
    if dry_run:
        return
    check_memory(settings, spec, mesh)

    # ---------------------------------------------------------------- model, program, where we left off
    distributed.lead_checks(lambda: check_base(settings, directory))
    if distributed.is_lead():
        start.describe_model(settings, spec, tokenizer, directory)
    with jax.set_mesh(mesh), Stop() as stop, contextlib.ExitStack() as scope:
        scope.enter_context(source)
        model = start.build_model(settings, spec, mesh)
        program = build_program(settings, stage, model, mesh, source.rows, steps, source.turns)
        shapes = start.trained_shapes(settings, spec)
        checkpoints = scope.enter_context(Checkpoints(directory, settings.checkpoints, shapes, lock))
        done = 0
        if (latest := checkpoints.latest()) is not None:
            done = source.resume(checkpoints.position(latest))
        if done > steps or (done == steps and complete):
            _finish(directory, done)
            click.echo(f"{directory}: complete at step {done}")
            return
        quiet = not distributed.is_lead()
        mirror = scope.enter_context(Mirror(directory, () if quiet else (LOG, RECORDS, WANDB)))
        display = scope.enter_context(Display(mirror.local, steps, done, shown=stage.shown, quiet=quiet))
        display.record(str(summary))
        display.note(f"resuming after step {done}" if done else "starting")

        # ------------------------------------------------------------ what the stage needs of the model as it starts
        described = start.describe_reference(settings, spec, tokenizer)
        source.begin(
            StartingModel(
                directory,
                model,
                # New adapters add nothing, so with them the frozen weights are the whole model.
                digest=partial(weights_digest, model.frozen[0] if model.frozen else model.trained, described),
                logps=partial(_on_devices, program.logps, mesh, model.trained),
                token_logps=partial(_on_devices, program.token_logps, mesh),
                ending=lambda: stop.signal,
                note=display.note,
                progress=display.stage,
            )
        )

        # ------------------------------------------------------------ state and callbacks
        state = new_state(model.trained, program.optimizer, mesh)
        del model  # the first step donates its parameters
        if done:
            state = checkpoints.restore(done, state)
        source.follow(state["params"])
        checkpoints.check_room(state)  # before the first step, not at the first save
        resolved = given.model_dump(mode="json")
        log = scope.enter_context(
            MetricsLog(mirror.local, done, project=settings.wandb, resolved=resolved, quiet=quiet)
        )
        profiling = scope.enter_context(Profiling(settings.profile, mirror.local, display.note))
        schedule = learning_rate(settings.optimizer, steps * stage.updates)
        devices = list(mesh.devices.flat)
        rate = lambda step: schedule(step * stage.updates)  # noqa: E731
        readings = Readings(settings.log_every, source, rate, log, display, directory, devices)
        reporting = Reporting(readings, log, display, checkpoints.score)
        callbacks = [
            profiling,
            host_memory.KeepFreed(mesh),
            readings,
            *source.callbacks(program, mesh, steps, reporting),
            Saving(settings.checkpoints.every, checkpoints, source.position, mirror, reporting),
        ]

        # ------------------------------------------------------------ the loop
        compiling = partial(display.stage, COMPILING)
        reached, stopped = loop(program.step, state, source, range(done, steps), mesh, stop, callbacks, compiling)
        with display.stage("saving"):
            checkpoints.wait()
        if stopped is not None:
            saved = f"saved at step {reached}" if reached else "before the first step was done"
            display.note(f"stopped by {stopped}: {saved}; run the same command to go on")
        else:
            mirror.publish()
            _finish(directory, reached)
            display.note(f"{directory}: complete at step {reached}")


def _finish(directory: Path, step: int) -> None:
    """Mark a run as complete."""
    if distributed.is_lead():
        write_atomically(directory / FINISHED, json.dumps({"step": step}) + "\n")


def _on_devices(step: Step[Params, jax.Array], mesh: Mesh, params: Params, batch: Batch) -> jax.Array:
    return step(params, place(batch, mesh))
