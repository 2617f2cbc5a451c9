"""Plans from formulas, the search, the command."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from aloe_jax import plan
from aloe_jax.errors import AloeError
from aloe_jax.planning import search as planning_search
from aloe_jax.planning.plan import estimate_plan, sizes_of, too_large
from aloe_jax.planning.search import search
from aloe_jax.planning.table import table
from aloe_jax.planning.workload import Shape, trees_of
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages.stage import stage_of
from aloe_jax.training.work import Work
from tests.planning.subjects import SPEC, subject

CONFIG = {
    "stage": "dpo",
    "output": "run",
    "model": {"path": "runs/sft/Meta-Llama-3-8B-Instruct", "compute_dtype": "bfloat16", "remat": "full"},
    "data": {"path": "nowhere", "row_length": 8192, "rows": 16},
}
FEW = ["--conversations", "60"]


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(CONFIG))
    return str(file)


def run(path, *arguments):
    return CliRunner().invoke(plan.main, ["--config", path, *arguments])


def test_assumed_conversations_are_of_the_shape_asked_for():
    shape = Shape(50, turns=6, user_tokens=20, reply_tokens=40)
    trees = trees_of(shape, stage_of(subject("v5e:2x2", stage="dpo").settings))
    assert len(trees) == 50 and all(tree.turns == 6 and len(tree.pairs) == 6 for tree in trees)
    assert np.mean([tree.length for tree in trees]) == pytest.approx(6 * (20 + 2 * 40), rel=0.05)
    supervised = trees_of(shape, stage_of(subject("v5e:2x2", stage="sft").settings))
    assert all(sum(node.scored > 0 for node in tree.nodes) == 6 for tree in supervised)
    assert sum(tree.length for tree in supervised) < sum(tree.length for tree in trees)


def test_a_plan_adds_up():
    made = estimate_plan(subject("v5e:2x2"))
    work, times = made.workload, made.roofline
    assert times.bound == max(times.compute, times.memory, times.interconnect) <= times.serial
    assert made.mfu == pytest.approx(work.flops / (4 * 197e12) / times.bound)
    assert made.possible <= 1 and made.mfu_serial <= made.mfu
    useful = Work.of(work.packed.rows, SPEC).flops.sum()
    assert work.flops == pytest.approx(8 * useful / len(work.packed.rows))
    assert work.flops < made.computed.total  # padding and rematerialisation are no use
    assert made.chip_hours == pytest.approx(work.steps * times.bound * 4 / 3600)
    assert made.demand.peak > made.demand.arguments


def test_settings_change_what_they_should():
    plain = estimate_plan(subject("v5e:2x2"))
    dots = estimate_plan(subject("v5e:2x2", model__remat="dots"))
    assert dots.computed.layers == pytest.approx(plain.computed.layers * 3 / 4)
    assert dots.demand.peak > plain.demand.peak
    low = estimate_plan(subject("v5e:2x2", model__lora={"rank": 4}, model__dtype="bfloat16"))
    assert low.workload.flops < plain.workload.flops
    assert low.demand.arguments < plain.demand.arguments / 4
    parts = estimate_plan(subject("v5e:2x2", data__accumulate=2))
    assert parts.computed == plain.computed
    assert sum(e.bytes for e in parts.demand.exchanges) > sum(e.bytes for e in plain.demand.exchanges)
    windowed = estimate_plan(subject("v5e:2x2", data__rows=16))
    assert windowed.computed.total == pytest.approx(2 * plain.computed.total)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data__rows": 7}, "data.rows: 7 rows a step cannot be split over 2 devices"),
        ({"mesh__tensor": 3}, "mesh: data 1 x fsdp 2 x tensor 3 needs 6 devices, there are 4"),
    ],
)
def test_what_does_not_go_together_is_told(changes, told):
    with pytest.raises(AloeError, match=told):
        estimate_plan(subject("v5e:2x2", **changes))


def test_the_search_recommends_the_fastest_that_fits():
    base = subject("v5e:2x2", data__rows=4)
    found = search(base, compiles=False)
    assert found.best.fits
    tokens = found.changes["data.rows"] * found.changes["data.row_length"]
    assert 4 * 512 <= tokens <= 4 * 4 * 512
    override = yaml.safe_load(found.override())
    assert override["mesh"]["fsdp"] * override["mesh"]["tensor"] == 4
    assert estimate_plan(base.changed(found.changes)).mfu == pytest.approx(found.best.mfu)
    again = found.arguments().split()  # each is an override
    assert len(again) == len(found.changes) and all(re.fullmatch(r"[\w.]+=\S+", argument) for argument in again)


def test_a_search_compiles_few_and_believes_the_compiler(monkeypatch):
    """A stand-in for the compiler refuses what is quickest, and finds the next too large once it refines it."""
    asked = []

    def compiled(subject, options=None):
        guess = estimate_plan(subject)
        key = (subject.settings.mesh.tensor, subject.settings.data.rows, subject.settings.model.remat)
        asked.append((key, options))
        first, second = asked[0][0], asked[1][0] if len(asked) > 1 else None
        large = key == first or (key == second and options is None)
        return replace(guess, demand=replace(guess.demand, peak=10**12)) if large else guess

    monkeypatch.setattr(planning_search, "compile_plan", compiled)
    monkeypatch.setattr(planning_search, "BETTER", 0.0)
    told = []
    found = search(subject("v5e:2x2", data__rows=4), report=told.append)
    quick = [key for key, options in asked if options]
    refined = [key for key, options in asked if options is None]
    assert len(quick) == planning_search.COMPILED == len(found.tried)
    assert quick[0] not in refined and refined[0] == quick[1] and len(refined) == 2
    assert found.best.fits and "refined, it is too large" in told[-1]


def test_a_search_that_finds_nothing_says_what_would_help():
    large = replace(SPEC, width=8192, query_heads=64, kv_heads=8, feed_forward=28_672, layers=80, vocab=128_256)
    with pytest.raises(AloeError, match=r"nothing fits v5e:2x2.*Take more chips, model.lora"):
        search(subject("v5e:2x2", spec=large), compiles=False)


def test_the_compilers_refusal_is_read():
    text = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.25G of 15.75G hbm. Exceeded hbm capacity"
    assert too_large(text) == 17.25 * 2**30
    assert too_large("INTERNAL: something else") is None


def test_the_table_says_what_a_person_asks(path):
    done = run(path, "--topology", "v5e:4x4", "--estimate", "--price", "1.2", *FEW)
    assert done.exit_code == 0, done.output
    for text in (
        "16 chips of TPU v5e on 2 hosts", "8,030,261,248", "estimated, not compiled", "assumed", "MFU at most",
        "a conversation", "fsdp:", "steps, at least", "at $1.2 a chip-hour", "tokens/s", "pairs/s", "fits",
    ):  # fmt: skip
        assert text in done.output, text


def test_json_has_the_same(path):
    done = run(path, "--topology", "h100:8", "--json", *FEW)
    told = json.loads(done.output)
    assert told["memory"]["source"] == "estimated"
    assert told["chips"] == 8 and told["model"]["parameters"] == 8_030_261_248
    assert told["seconds"]["step"] == max(told["seconds"][name] for name in ("compute", "memory", "interconnect"))
    assert 0 < told["mfu"] < 1 and told["steps"] == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--topology", "v7:2x2"], "topology: 'v7:2x2' is none"),
        (["--topology", "h100:8", "--sampler"], "--sampler: prefill and decode are compiled"),
        (["--topology", "v5e:4x4", "--estimate", "model.path=runs/mine"], "give one of these as --model"),
    ],
)
def test_mistakes_are_told_in_a_line(path, arguments, told):
    done = run(path, *arguments)
    assert done.exit_code == 1 and told in done.output and done.output.count("\n") == 1


def test_a_model_that_is_not_named_after_its_kind_can_be_named():
    settings = TrainSettings.model_validate(CONFIG | {"model": {"path": "runs/mine"}})
    spec, said = sizes_of(settings, "Qwen2-7B")
    assert spec.family == "qwen2" and "Qwen2-7B" in said


def test_without_libtpu_it_says_how_to_get_it(path):
    program = (
        "import sys; sys.modules['libtpu'] = None; sys.prefix = '/nowhere'\n"
        f"from aloe_jax.plan import main\nmain(['--config', {path!r}, '--topology', 'v5e:2x2', *{FEW!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PATH": "", "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "pip install" in done.stderr and "libtpu" in done.stderr
    assert "Traceback" not in done.stderr


def test_too_large_for_the_chip_is_said(path):
    done = run(path, "--topology", "v5e:2x2", "--estimate", "mesh.fsdp=4", *FEW)
    assert "DOES NOT FIT by" in done.output


def test_a_plan_of_two_slices_counts_the_network():
    made = estimate_plan(subject("v5e:2x2", slices=2))
    assert made.mesh == {"data": 2, "fsdp": 2, "tensor": 2}
    assert made.roofline.axes["network between slices"] > 0
    assert "2 x v5e:2x2: 8 chips" in table(made)
