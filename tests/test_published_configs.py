"""Every config in configs/ loads, is short, and opens with the command that uses it."""

import functools
import shlex
from pathlib import Path

import pytest

from aloe_jax.benchmark.settings import EvaluateSettings, PreferencesSettings
from aloe_jax.parallel.chips import read_topology
from aloe_jax.planning.plan import Subject, estimate_plan, sizes_of
from aloe_jax.planning.workload import Conversations, Shape
from aloe_jax.settings import load_settings
from aloe_jax.sweep.settings import SweepSettings
from aloe_jax.training.settings import TrainSettings
from datagen.settings import DatagenSettings
from tests.planning.headers import PLANNED

ROOT = Path(__file__).parent.parent / "configs"
KINDS = {
    "python -m aloe_jax.evaluate --preferences": PreferencesSettings,
    "python -m aloe_jax.train": TrainSettings,
    "python -m aloe_jax.evaluate": EvaluateSettings,
    "python -m aloe_jax.sweep": SweepSettings,
    "python -m datagen": DatagenSettings,
}
FILES = sorted(ROOT.rglob("*.yaml"))
PLANS = [(path, line) for path in FILES for line in map(PLANNED.fullmatch, path.read_text().splitlines()) if line]
FEW = Shape(conversations=331)  # a tenth of those that the headers speak of


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_config(path):
    lines = path.read_text().splitlines()
    command = next(name for name in KINDS if name in lines[0])
    assert f"--config configs/{path.relative_to(ROOT)}" in lines[0]
    header = " ".join(line for line in lines if line.startswith("#"))
    assert "Hardware:" in header and "Expected:" in header
    assert len(lines) <= 25
    load_settings(KINDS[command], path)


def test_there_are_configs():
    assert len(FILES) >= 6


@functools.cache
def conversations(stage):
    settings = load_settings(TrainSettings, ROOT / stage / "llama3_8b.yaml")
    return Conversations(settings, FEW)


@pytest.mark.parametrize(
    ("path", "line"), PLANS, ids=[f"{p.parent.name}/{p.stem} {line['topology']}" for p, line in PLANS]
)
def test_plan_of_a_header(path, line):
    """What a header says of a slice fits it, and is what the formulas say now, as near as they come to a compiler."""
    settings = load_settings(TrainSettings, path, shlex.split(line["overrides"]))
    spec, sizes_from = sizes_of(settings)
    assert sizes_from.startswith("published sizes of")
    where = read_topology(line["topology"])
    plan = estimate_plan(Subject(settings, spec, sizes_from, where, conversations(settings.stage)))
    assert plan.fits
    assert float(line["memory"]) * 2**30 < where.chip.memory
    exact = line["estimated"] or not where.chip.is_tpu
    assert float(line["memory"]) == pytest.approx(plan.peak / 2**30, rel=0.05 if exact else 0.2)
    assert float(line["mfu"]) / 100 == pytest.approx(plan.mfu, abs=0.03 if exact else 0.2)
    assert float(line["serial"]) / 100 == pytest.approx(plan.mfu_serial, abs=0.03 if exact else 0.25)
    assert float(line["minutes"]) <= 1.3 * 10 * plan.seconds / 60 + 0.3


def test_every_model_is_planned_for_every_machine():
    planned = {(path.parent.name, path.stem, line["topology"]) for path, line in PLANS}
    machines = ("v5e:4x4", "v5p:2x2x1", "v4:2x2x2", "v6e:2x4", "h100:8", "h200:1")
    for model in ("llama3_8b", "mistral_7b", "qwen2_7b", "olmo_7b"):
        assert {(stage, model, machine) for stage in ("sft", "dpo") for machine in machines} <= planned
    assert ("dpo", "llama3_70b", "v5p:2x4x4") in planned
