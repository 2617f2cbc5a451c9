import json
import os
import random
import subprocess
import sys

import pytest
from click.testing import CliRunner

from aloe_jax.evaluate import main
from aloe_jax.llm.world.people import write_personality, write_profile

MODELS = "{generic: {scripted: generic}, informed: {scripted: informed}}"


@pytest.fixture
def folder(tmp_path):
    draw = random.Random(0)
    personas = [
        {"id": f"b{i}", "profile": write_profile(draw), "personality": write_personality(draw)} for i in range(6)
    ]
    (tmp_path / "personas.jsonl").write_text("".join(json.dumps(persona) + "\n" for persona in personas))
    settings = f"output: {tmp_path}/out\npersonas: {tmp_path}/personas.jsonl\ncases: 6\nturns: 3\nbootstrap: 50\n"
    settings += "roles: {provider: scripted}\n"
    (tmp_path / "eval.yaml").write_text(f"{settings}models: {MODELS}\n")
    return tmp_path


def run(folder, *overrides):
    return CliRunner().invoke(main, ["--config", f"{folder}/eval.yaml", *overrides])


def outputs(folder):
    names = ["report.html", "metrics.json", "transcripts.jsonl", "config.yaml"]
    return {name: (folder / "out" / name).read_bytes() for name in names}


def test_reference_lines_end_to_end_and_again(folder):
    first = run(folder)
    assert first.exit_code == 0, first.output
    assert "informed *" in first.stdout and "simulated: the users" in first.stdout
    assert "generic: dialogues" in first.stderr
    found = outputs(folder)
    numbers = json.loads(found["metrics.json"])["models"]
    assert numbers["generic"]["average"]["value"] + 1 < numbers["informed"]["average"]["value"]
    assert numbers["generic"]["coverage"] == 1
    assert numbers["informed"]["cases"] == 6 and len(numbers["informed"]["al"]) == 3

    again = run(folder)
    assert again.exit_code == 0
    assert outputs(folder) == found

    for path in (folder / "out").iterdir():
        path.unlink()
    assert run(folder).exit_code == 0
    assert outputs(folder) == found  # the same without the journal


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cases=7", "has 6 benchmark personas, cases asks for 7"),
        ("personas=nowhere.jsonl", "nowhere.jsonl"),
        ("models.m.path=nowhere", "models.m: nowhere is not a directory"),
        ("models={m: {path: .}}", "models.m: . holds neither config.json"),
        ("models={}", "models"),
        ("sampling.temprature=1", "did you mean sampling.temperature"),
    ],
)
def test_mistakes_are_told_in_one_line_before_anything_runs(folder, monkeypatch, override, message):
    monkeypatch.chdir(folder)
    found = run(folder, override)
    assert found.exit_code == 1
    assert message in found.output
    assert found.output.count("\n") == 1 and found.output.startswith("Error: ")
    assert not (folder / "out").exists()


def test_a_run_without_checkpoint_is_refused(folder):
    (folder / "run").mkdir()
    (folder / "run/spec.json").write_text("{}")
    found = run(folder, f"models.m.path={folder}/run")
    assert "has no checkpoint yet" in found.output


def test_a_repeated_persona_is_refused(folder):
    path = folder / "personas.jsonl"
    path.write_text(path.read_text().replace('"b3"', '"b2"'))
    assert "persona b2 is there twice" in run(folder).output


def test_help_is_quick_and_loads_nothing_heavy():
    code = "import sys, aloe_jax.evaluate; print(*[m for m in ('jax', 'numpy', 'jinja2') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert found.stdout.split() == []
