"""What a sweep will do and ask for, before it does: its runs, and calls and dollars where language models play."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from aloe_jax.benchmark.estimate import estimate
from aloe_jax.llm.ledger import Ledger
from aloe_jax.rollouts.personas import read_rollout_personas, steps_of
from aloe_jax.sweep.checks import check_evaluation, state_of
from aloe_jax.sweep.plan import SweepPlan, SweepRun
from aloe_jax.terminal import plain
from aloe_jax.training.rollout_costs import rollout_costs


def plan_table(plan: SweepPlan) -> Table:
    """Every run in order, how far it is, and what it will ask of language models."""
    shown = Table(
        title=f"{len(plan.runs)} trainings into {plan.output}; nothing was started",
        title_justify="left",
        caption="\n".join(totals(plan)),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    for head in ("run", "stage", "seed", "starts from", "steps", "state"):
        shown.add_column(head, justify="right" if head in ("seed", "steps") else "left")
    for run in plan.runs:
        settings = run.settings
        length = f"{settings.steps:,}" if settings.steps else f"{settings.epochs} epochs"
        cells = (run.name, settings.stage, str(settings.seed), run.start or settings.model.path or "scratch", length)
        shown.add_row(*map(plain, cells), plain(state_of(run)))
    return shown


def totals(plan: SweepPlan) -> list[str]:
    """Calls and dollars of all trainings and of the benchmark, one a line, and their sum."""
    found = [("trainings", *_training(plan.runs))]
    if plan.evaluation is not None:
        settings = plan.evaluation
        personas = check_evaluation(settings, {run.settings.output for run in plan.runs})
        journal = Path(settings.output) / "journal.sqlite"
        with Ledger(journal, writing=False) if journal.is_file() else nullcontext() as ledger:
            asked = estimate(settings, personas, ledger)
        costs = [one.cost for one in asked]
        dollars = None if None in costs else sum(cost or 0.0 for cost in costs)
        of = f"benchmark of {len(settings.models)} models, {len(personas)} cases"
        found.append((of, sum(one.calls for one in asked), dollars))
    known = [dollars for _, _, dollars in found if dollars is not None]
    found.append(("in all", sum(calls for _, calls, _ in found), sum(known) if len(known) == len(found) else None))
    lines = [f"{what}: {calls:,} calls, {_money(dollars)}" for what, calls, dollars in found]
    return [*lines, "Calls to language models, those of a script included; what a journal has is not asked again."]


def _training(runs: Sequence[SweepRun]) -> tuple[int, float | None]:
    """Calls and dollars of the trainings that talk to simulated users, at most; others ask nobody."""
    calls, dollars = 0, 0.0
    priced = True
    for run in runs:
        if run.settings.stage != "rl":
            continue
        personas = read_rollout_personas(run.settings.rl, run.settings.data)
        steps = run.settings.steps or steps_of(len(personas.training), run.settings.rl, run.settings.epochs)
        costs = rollout_costs(run.settings, personas.training, {}, steps)
        calls += costs.calls(steps)
        spent = costs.dollars(steps)
        priced = priced and spent is not None
        dollars += spent or 0.0
    return calls, dollars if priced else None


def _money(dollars: float | None) -> str:
    return "no price" if dollars is None else f"${dollars:,.2f}"
