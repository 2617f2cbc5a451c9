"""What the demo made, what it showed, and what was simulated: the report, and a summary for the terminal."""

from __future__ import annotations

import json
from pathlib import Path

from aloe_jax.demo.pipeline import DemoStage, read_stamp
from aloe_jax.report.controls import control_readings
from aloe_jax.report.defects import warnings
from aloe_jax.report.gathering import Report, gather
from aloe_jax.report.page import write_page
from aloe_jax.report.recipes import conditional_note
from aloe_jax.report.summary_table import difference
from aloe_jax.report.tables import latex, markdown
from aloe_jax.storage.files import write_atomically


def write_report(root: Path) -> Report:
    """Write report.html from the benchmark's results, and the tables to paste beside it."""
    report = gather([root / "benchmark"])
    write_page(report, root / "report.html")
    write_atomically(root / "report.md", markdown(report))
    write_atomically(root / "report.tex", latex(report))
    return report


def summary(root: Path, plan: list[DemoStage], report: Report) -> str:
    """What was made, what it showed, and what was simulated."""
    times = {s.name: read_stamp(root / "stages" / f"{s.name}.json")[1] for s in plan}
    models = json.loads((root / "metrics.json").read_text())["models"]
    lines = ["", "Time      " + "  ".join(f"{name} {seconds:.0f} s" for name, seconds in times.items())]
    lines.append(f"          {sum(times.values()) / 60:.1f} minutes in all")
    width = max(10, *(len(name) + 2 for name in models))
    for name, values in models.items():
        lines.append(f"{name:<{width}}" + alignment(values))
    lines += [f"{'Average' if number == 0 else '':<10}{difference(pair)}" for number, pair in enumerate(report.pairs)]
    lines += [f"Warning   {warning}" for warning in warnings(report)]
    lines += [f"{'Control':<10}{reading.line()}" for reading in control_readings(report)]
    if report.single_runs:
        lines.append(f"Weights   {conditional_note(report.single_runs)}")
    lines += [
        f"Report    {root / 'report.html'} (its tables in report.md and report.tex)",
        f"Numbers   {root / 'metrics.json'}",
        f"Model     {root / 'export'} (Hugging Face format)",
        "",
        "Untrue   is the share of replies that assert a fact of somebody else: AL says little of them.",
        "Simulated: the personas, the users, both responders, the verifier and the judge are a scripted world,",
        "and so are the reference lines generic and informed. The numbers say that the line works from end to end;",
        "they say nothing about people. Trained and measured for real: base, sft, dpo and rl.",
    ]
    return "\n".join(lines)


def alignment(values: dict) -> str:
    """One model's average AL and improvement rate with their 95% intervals, and the share of untrue assertions."""

    def text(estimate: dict[str, float | None], form: str) -> str:
        value, low, high = (estimate[key] for key in ("value", "low", "high"))
        if value is None:
            return "undefined"
        return f"{value:{form}}" + (f" [{low:{form}}, {high:{form}}]" if low is not None else "")

    share = values["automatic"]["untrue"]
    untrue = "" if share is None else f"   untrue {share:.1%}"
    return f"average AL {text(values['average'], '.2f')}   IR {text(values['ir'], '+.3f')}{untrue}"
