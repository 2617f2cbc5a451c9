"""What can be wrong with a sweep, found before its first run starts: everything but what only computing shows."""

from __future__ import annotations

from collections.abc import Iterable

from aloe_jax.benchmark.scoring import judge_roles
from aloe_jax.benchmark.settings import EvaluateSettings
from aloe_jax.benchmark.stages import check_model, read_cases
from aloe_jax.conversation import Persona
from aloe_jax.errors import AloeError
from aloe_jax.llm.providers import check_role
from aloe_jax.models.checkpoint_files import checkpoint_steps
from aloe_jax.models.run_directory import is_finished
from aloe_jax.rollouts.personas import read_rollout_personas
from aloe_jax.rollouts.rewards import roles_of
from aloe_jax.rollouts.watch import check_watch
from aloe_jax.storage.files import as_path
from aloe_jax.sweep.devices import check_mesh
from aloe_jax.sweep.plan import SweepPlan, SweepRun
from aloe_jax.training.claim import check_output, check_settings


def check_plan(plan: SweepPlan) -> None:
    """Raise AloeError for the first run whose paths, roles, mesh or directory are wrong, and for the benchmark's.

    A run that another version, or other settings, left in a directory of the sweep is refused.
    """
    for run in plan.runs:
        try:
            _check_run(run)
        except AloeError as error:
            raise AloeError(f"{run.config} (run {run.name}): {error}") from None
    if plan.evaluation is not None:
        check_evaluation(plan.evaluation, {run.settings.output for run in plan.runs})


def _check_run(run: SweepRun) -> None:
    settings = run.settings
    check_output(settings.output)
    check_settings(settings)
    check_mesh(settings.mesh)
    if settings.stage == "rl" and settings.rl.watch is not None:
        check_watch(settings.rl, settings.rl.watch, settings.roles)
    if settings.model.path is not None and run.start is None:
        require_path("model.path", settings.model.path)
    paths = [("model.tokenizer", settings.model.tokenizer), ("rl.personas", rl_personas(run))]
    for key, path in [*paths, *(("data.path", source.path) for source in settings.data.sources)]:
        if path is not None:
            require_path(key, path)
    if settings.stage == "rl":
        for role in ("user", *roles_of(settings.rl.weights)):
            check_role(getattr(settings.roles, role), role, priced=settings.rl.max_cost is not None)
        read_rollout_personas(settings.rl, settings.data)


def rl_personas(run: SweepRun) -> str | None:
    """Where the personas of a run by RL are; None for other stages."""
    return run.settings.rl.personas if run.settings.stage == "rl" else None


def check_evaluation(settings: EvaluateSettings, trained: Iterable[str]) -> list[Persona]:
    """The benchmark's personas. Raises AloeError for them, for a model not `trained` first, for roles and the mesh.

    `trained` are the directories of the sweep's runs.
    """
    runs = set(trained)
    for name, candidate in settings.models.items():
        if candidate.path is not None and candidate.path not in runs:
            check_model(f"models.{name}", candidate.path)
        if candidate.remote is not None:
            check_role(candidate.remote, "responder", priced=settings.max_cost is not None)
    candidates = settings.models.values()
    if any(candidate.path is not None for candidate in candidates):
        try:
            check_mesh(settings.sampling.mesh, alone=False)
        except AloeError as error:
            raise AloeError(f"sampling.{error}" if str(error).startswith("mesh") else str(error)) from None
    check_role(settings.roles.user, "user", priced=settings.max_cost is not None)
    if any(candidate.scripted is not None for candidate in candidates):
        check_role(settings.roles.responder, "responder", priced=settings.max_cost is not None)
    for role in judge_roles(settings).values():
        check_role(role, "judge", priced=settings.max_cost is not None)
    for path in settings.judging.people:
        require_path("judging.people", path)
    return read_cases(settings)


def state_of(run: SweepRun) -> str:
    """How far a run is, in words."""
    if is_finished(run.settings.output):
        return "done"
    steps = checkpoint_steps(run.settings.output)
    return f"goes on after step {steps[-1]}" if steps else "to do"


def require_path(key: str, path: str) -> None:
    """Raise AloeError where nothing is at the path of a setting."""
    if not as_path(path).exists():
        raise AloeError(f"{key}: {path} does not exist; give another, or create it first")
