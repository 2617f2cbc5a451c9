"""The whole line, through its commands, at miniature size; and the demo's bookkeeping."""

import json
import os
import subprocess
import sys
import time

import pytest
from safetensors import safe_open

from aloe_jax.demo.pipeline import run_stage, stages
from aloe_jax.errors import AloeError


def run(root):
    environment = os.environ | {"XLA_FLAGS": ""}  # as a person's machine has it
    return subprocess.run(
        [sys.executable, "-m", "aloe_jax.demo", "--output", str(root), "--miniature"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    start = time.perf_counter()
    done = run(root)
    assert done.returncode == 0, done.stdout + done.stderr
    return root, done.stdout, time.perf_counter() - start


def test_everything_is_there(finished):
    root, printed, _ = finished
    numbers = json.loads((root / "metrics.json").read_text())
    assert set(numbers["models"]) == {"generic", "base", "sft", "dpo", "rl", "rl-last_message", "informed"}
    for values in numbers["models"].values():
        assert values["coverage"] == 1.0 and len(values["al"]) == 3
    page = (root / "report.html").read_text()
    assert "Here the users, the judge and the reference lines are played by a script" in page
    sections = "summary levels learning differences controls ratings people automatic length judges transcripts"
    for section in sections.split():
        assert f'<section id="{section}"' in page
    assert page.count('<script type="application/json" class="case">') == 4
    assert (root / "report.md").read_text().startswith("| Model") and r"\toprule" in (root / "report.tex").read_text()
    with safe_open(root / "export/model.safetensors", "numpy") as weights:
        assert "model.embed_tokens.weight" in weights.keys()  # noqa: SIM118 - not a dict
    for name in ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "README.md"):
        assert (root / "export" / name).is_file(), name
    assert "[10/10]" in printed and "Simulated:" in printed and "report.html" in printed and "base → sft:" in printed
    assert "rl: IR over its last message only" in printed


def test_again_it_only_reports(finished):
    root, _, first = finished
    before = (root / "metrics.json").read_bytes()
    start = time.perf_counter()
    done = run(root)
    assert done.returncode == 0 and done.stdout.count("done before") == len(stages(root))
    assert time.perf_counter() - start < first / 4
    assert (root / "metrics.json").read_bytes() == before


def test_other_settings_are_refused(finished):
    root, _, _ = finished
    stamp = root / "stages" / "personas.json"
    with pytest.raises(AloeError, match="made with other settings"):
        run_stage(stages(root)[0], ["-m", "datagen"], stamp, "0" * 16, "1/10")
