"""The published sweep through its command, at miniature size: killed, gone on with, found done."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from itertools import combinations

import pytest

from aloe_jax.benchmark.results import load_results
from aloe_jax.demo.pipeline import CONFIGS, command_line, stages
from aloe_jax.models.run_directory import is_finished
from aloe_jax.report.gathering import gather
from aloe_jax.sweep.process import run_command

TRAININGS = ("base", "sft", "dpo", "rl")
RUNS = tuple(f"{name}-s{seed}" for seed in (0, 1) for name in TRAININGS)
CONTROLS = ("rl-s0-last_message", "rl-s1-last_message")
pytestmark = pytest.mark.soak
LIMIT = 1800.0  # seconds that all of it may take on a slow machine; a command that hangs fails the test

# Python runs this as it starts. The process that trains dpo-s0 kills the sweep, and itself, where it first writes into
# its directory after its config: it has begun and is not finished, however fast or slow the machine is.
KILL = """
import os, signal, sys
from pathlib import Path

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and "dpo-s0" in Path(arguments[0]).parts:
        if arguments[2] & (os.O_WRONLY | os.O_RDWR) and Path(DIRECTORY, "config.yaml").exists():
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

if sys.orig_argv[-1].endswith("configs/dpo-s0.yaml"):
    sys.addaudithook(watch)
"""


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """The command, with the data and the tokenizer of a miniature demo; its output is `sweep` in the same directory."""
    root = tmp_path_factory.mktemp("sweep")
    line = {stage.name: stage for stage in stages(root)}
    for name in ("personas", "conversations", "build", "tokenizer"):
        assert run_command(command_line(line[name], miniature=True), {}) == 0
    tiny = {}
    for name in TRAININGS:
        changed = [part for part in (*line[name].arguments, *line[name].miniature) if "=" in part]
        kept = [part for part in changed if not part.startswith(("output=", "model.path="))]
        tiny[name] = (
            "{" + ", ".join(f"{key}: {value}" for key, _, value in (part.partition("=") for part in kept)) + "}"
        )
    cases = f"{{personas: {root}/data/tfds/aloe_personas/1.0.0, cases: 4, turns: 3, bootstrap: 200, permutations: 500, "
    changes = [f"train.{name}.set={text}" for name, text in tiny.items()]
    changes += [f"evaluate.set={cases}sampling.max_new_tokens: 8}}", f"output={root / 'sweep'}", "seeds=[0, 1]"]
    return root / "sweep", ["-m", "aloe_jax.sweep", "--config", str(CONFIGS / "sweep.yaml"), *changes]


@pytest.fixture(scope="module")
def finished(arguments, tmp_path_factory):
    """What the command printed that went on after its first process was killed in the third run."""
    output, command = arguments
    killing = tmp_path_factory.mktemp("killing")
    (killing / "sitecustomize.py").write_text(KILL.replace("DIRECTORY", repr(str(output / "dpo-s0"))))
    paths = os.pathsep.join([str(killing), *filter(None, [os.environ.get("PYTHONPATH")])])
    first = start(command, {"PYTHONPATH": paths})
    assert first.returncode == -signal.SIGKILL, first.stdout + first.stderr
    assert (output / "dpo-s0/config.yaml").exists() and not is_finished(output / "dpo-s0")
    return output, again(command)


def again(command):
    done = start(command, {})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def start(command, environment):
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=LIMIT,
    )  # fmt: skip


def test_a_killed_sweep_goes_on(finished):
    output, printed = finished
    assert "[1/9] base-s0: done before" in printed and "[2/9] sft-s0: done before" in printed
    assert printed.count("done before") == 2 and "[8/9] rl-s1: done in " in printed
    assert all(is_finished(output / name) for name in RUNS)
    assert "rl, 2 runs, seeds 0, 1: " in printed and "With two runs (base, sft, dpo and rl)" in printed
    assert "Simulated: the users, the judge and the reference lines" in printed


def test_every_run_has_its_seed_and_starts_from_its_own(finished):
    output, _ = finished
    trained = {name: model.training for name, model in load_results(output / "benchmark").models.items()}
    assert trained["generic"] is None and set(trained) == {*RUNS, *CONTROLS, "generic", "informed"}
    assert trained["rl-s1"].stages == ("sft", "sft", "dpo", "rl") and trained["rl-s1"].seeds == (1, 1, 1, 1)
    assert trained["dpo-s1"].stages == ("sft", "sft", "dpo") and trained["dpo-s1"].seeds == (1, 1, 1)
    assert trained["dpo-s0"].recipe == trained["dpo-s1"].recipe != trained["sft-s1"].recipe
    weights = {name: json.loads((output / name / "base.json").read_text()) for name in ("dpo-s0", "dpo-s1")}
    assert weights["dpo-s0"]["model.path"]["fingerprint"] != weights["dpo-s1"]["model.path"]["fingerprint"]


def test_the_report_is_by_recipe(finished):
    output, _ = finished
    found = gather([output / "benchmark"]).recipes
    assert [one.name for one in found.results] == list(TRAININGS)
    assert {(pair.first, pair.second, pair.paired) for pair in found.pairs} == {
        (first, second, True) for first, second in combinations(TRAININGS, 2)
    }
    assert '<section id="recipes"' in (output / "report.html").read_text()
    assert "| Recipe | Training runs" in (output / "report.md").read_text()


def test_what_is_done_is_not_done_again(finished, arguments):
    output, _ = finished
    before = (output / "benchmark/metrics.json").read_bytes(), calls(output)
    assert again(arguments[1]).count("done before") == 8
    assert ((output / "benchmark/metrics.json").read_bytes(), calls(output)) == before


def calls(output):
    with sqlite3.connect(output / "benchmark/journal.sqlite") as journal:
        return journal.execute("SELECT count(*) FROM calls").fetchone()


def test_a_dry_run_says_so(finished, arguments):
    printed = again([*arguments[1], "--dry-run"])
    assert printed.count("done") == 8 and "benchmark of 12 models, 4 cases" in printed
