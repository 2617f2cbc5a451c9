"""A sweep from plan to report: every part is a command of ours in a process of its own; runs are trained once."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import click

from aloe_jax.benchmark.settings import EvaluateSettings
from aloe_jax.coverage import INCOMPLETE
from aloe_jax.errors import AloeError
from aloe_jax.models.run_directory import is_finished
from aloe_jax.settings import dump_settings
from aloe_jax.storage.files import as_path, make_directory, write_atomically
from aloe_jax.storage.locks import Lock
from aloe_jax.sweep.plan import SweepPlan, SweepRun
from aloe_jax.sweep.process import run_command
from aloe_jax.training.base import check_base

LOCK = "sweep.lock"
LIMITED = 3  # exit status of a benchmark that a limit of calls or dollars stopped


def run_sweep(plan: SweepPlan, environment: Mapping[str, str]) -> int:
    """Train what is not trained yet, evaluate all of it, write the report; the exit status of the benchmark.

    `environment` is added to that of the processes, which share a cache of what they compile. Raises AloeError where a
    part fails or stops before its end: the same command goes on from there.
    """
    make_directory(plan.output)
    lock = Lock(plan.output / LOCK, lambda owner: f"{plan.output}: another sweep is writing into it ({owner})")
    try:
        parts = len(plan.runs) + (plan.evaluation is not None)
        compiled = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str((plan.output / "compiled").absolute())
        cache = {"JAX_COMPILATION_CACHE_DIR": compiled, **environment}
        for number, run in enumerate(plan.runs, 1):
            _train(run, plan.output, f"[{number}/{parts}] {run.name}", cache)
        if plan.evaluation is None:
            return 0
        status = _evaluate(plan.evaluation, plan.output, f"[{parts}/{parts}] benchmark", cache)
        if status != LIMITED:
            write_report(plan.output)
        return status
    finally:
        lock.release()


def write_report(output: Path) -> None:
    """report.html, and its tables as report.md and report.tex, from the benchmark of a sweep."""
    from aloe_jax.report.defects import warnings
    from aloe_jax.report.gathering import gather
    from aloe_jax.report.page import write_page
    from aloe_jax.report.summary_table import recipe_lines
    from aloe_jax.report.tables import latex, markdown

    report = gather([output / "benchmark"])
    write_page(report, output / "report.html")
    write_atomically(output / "report.md", markdown(report))
    write_atomically(output / "report.tex", latex(report))
    click.echo("")
    for line in recipe_lines(report):
        click.echo(line)
    for line in warnings(report):
        click.echo(f"warning: {line}")
    if report.simulated:
        click.echo(f"Simulated: {report.simulated}. The numbers say nothing about people.")
    click.echo(f"{output / 'report.html'} (its tables in report.md and report.tex)")


def _train(run: SweepRun, output: Path, title: str, environment: Mapping[str, str]) -> None:
    directory = as_path(run.settings.output)
    if is_finished(directory):
        check_base(run.settings, directory)  # is the run that it started from still the same?
        click.echo(f"{title}: done before")
        return
    config = _write_config(output, run.name, dump_settings(run.settings))
    start = time.perf_counter()
    status = _command(title, ["-m", "aloe_jax.train", "--config", str(config)], environment)
    if status:
        raise AloeError(f"run {run.name} stopped with status {status}; the same command goes on from there")
    if not is_finished(directory):  # a signal asked for its end
        raise AloeError(f"run {run.name} was stopped before its last step; the same command goes on from there")
    click.echo(f"{title}: done in {time.perf_counter() - start:.0f} s")


def _evaluate(settings: EvaluateSettings, output: Path, title: str, environment: Mapping[str, str]) -> int:
    """Always, whatever was finished before: its numbers depend on personas, ratings by people and this version, too."""
    config = _write_config(output, "benchmark", dump_settings(settings))
    title += ": results are computed anew; what its journal has is not asked again"
    status = _command(title, ["-m", "aloe_jax.evaluate", "--config", str(config)], environment)
    if status not in (0, INCOMPLETE, LIMITED):
        raise AloeError(f"the benchmark stopped with status {status}; the same command goes on from there")
    return status


def _write_config(output: Path, name: str, text: str) -> Path:
    path = output / "configs" / f"{name}.yaml"
    make_directory(path.parent)
    write_atomically(path, text)
    return path


def _command(title: str, arguments: list[str], environment: Mapping[str, str]) -> int:
    click.secho(f"\n{title}", bold=True)
    click.echo(f"$ python {' '.join(arguments)}")
    return run_command(arguments, environment)
