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


@functools.cache
def replicated(name, kind=TrainSettings):
    return load_settings(kind, ROOT / "replicate" / f"{name}.yaml")


def test_replication_follows_the_released_settings():
    """Of the publication's code (docs/publication.md): training from the instruct model, and sampling in evaluation."""
    sft, dpo = replicated("sft"), replicated("dpo")
    assert dpo.dpo.beta == 0.9 and (dpo.dpo.loss, dpo.dpo.sft_weight) == ("sigmoid", 0.0)
    for settings in (sft, dpo):
        optimizer = settings.optimizer
        assert (optimizer.learning_rate, optimizer.warmup_steps, settings.epochs, settings.steps) == (1e-5, 0, 1, None)
        assert (optimizer.schedule, optimizer.final_fraction, optimizer.weight_decay) == ("linear", 0.0, 0.0)
        assert (optimizer.name, optimizer.b1, optimizer.b2, optimizer.clip_norm) == ("adamw", 0.9, 0.999, 1.0)
        assert settings.model.path == "models/Meta-Llama-3-8B-Instruct" and settings.model.lora is None
    assert sft.sft.replies == "preferred" and sft.data.row_length == 8192
    evaluate = replicated("evaluate", EvaluateSettings)
    assert evaluate.sampling.max_new_tokens == 2048 and (evaluate.cases, evaluate.turns) == (100, 10)
    assert evaluate.roles.user.model == evaluate.roles.judge.model == "gpt-4o-mini-2024-07-18"


def test_a_step_of_replication_holds_as_much_as_a_released_one():
    """48 pairs of DPO; for SFT the conversations of 48 rows of 8,192 tokens, each written as ten growing prefixes."""
    shape, found = FEW, {}
    for name in ("sft", "dpo"):
        settings = replicated(name)
        found[name] = Conversations(settings, shape).workload(settings, sizes_of(settings)[0])
    assert found["dpo"].pairs == pytest.approx(48, abs=2)
    turn = shape.user_tokens + shape.reply_tokens
    prefixes = turn * shape.turns * (shape.turns + 1) / 2
    assert found["sft"].trees == pytest.approx(48 * 8192 / prefixes, rel=0.05)


def test_every_model_is_planned_for_every_machine():
    planned = {(path.parent.name, path.stem, line["topology"]) for path, line in PLANS}
    machines = ("v5e:4x4", "v5p:2x2x1", "v4:2x2x2", "v6e:2x4", "h100:8", "h200:1")
    for model in ("llama3_8b", "mistral_7b", "qwen2_7b", "olmo_7b"):
        assert {(stage, model, machine) for stage in ("sft", "dpo") for machine in machines} <= planned
    assert ("dpo", "llama3_70b", "v5p:2x4x4") in planned
