import json
import os
import random
import subprocess
import sys

import pytest
from click.testing import CliRunner

from aloe_jax.benchmark.results import load_results
from aloe_jax.evaluate import main
from aloe_jax.llm.world.persona_texts import write_personality, write_profile

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
    assert load_results(folder / "out").models["generic"].cases == 6
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
        ("models.m={path: x, scripted: generic}", "models.m: give one of path"),
        ("judging.pairs=[[generic, other]]", "judging.pairs: there is no model other"),
        ("judging.judges={j: {provider: scripted, temperture: 1}}", "unknown key judging.judges.j.temperture"),
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


def test_a_limit_of_calls_stops_cleanly_and_the_run_goes_on(folder):
    first = run(folder, "--max-calls", "40")
    assert first.exit_code == 3 and "Whatever is finished is kept" in first.output
    assert not (folder / "out/metrics.json").exists()
    for _ in range(9):
        last = run(folder, "max_calls=40")
        if last.exit_code == 0:
            break
    assert last.exit_code == 0
    found = outputs(folder)
    for path in (folder / "out").iterdir():
        path.unlink()
    assert run(folder).exit_code == 0
    stripped = [
        text["metrics.json"].replace(b'"max_calls": 40', b'"max_calls": null') for text in (found, outputs(folder))
    ]
    assert stripped[0] == stripped[1] and found["transcripts.jsonl"] == outputs(folder)["transcripts.jsonl"]


def test_a_limit_of_dollars_needs_every_price(folder):
    remote = "models.far={remote: {provider: openai, model: m, endpoint: 'http://localhost:1/v1'}}"
    found = run(folder, remote, "max_cost=1")
    assert found.exit_code == 1 and "models.far.remote.price: max_cost needs the price" in found.output
    judge = "judging.judges={j: {provider: gemini}}"
    assert "judging.judges.j.model: provider gemini needs a model" in run(folder, judge).output


def test_a_dry_run_counts_and_asks_nothing(folder):
    role = "{provider: openai, model: big, price: {input: 1, output: 2}, endpoint: 'http://localhost:1/v1'}"
    found = run(folder, "--dry-run", f"models.far={{remote: {role}}}", "judging.pairs=[[generic, informed]]")
    assert found.exit_code == 0, found.output
    rows = {}
    for line in found.output.splitlines():
        cells = [cell.strip() for cell in line.replace("\N{BOX DRAWINGS LIGHT VERTICAL}", "|").split("|")[1:-1]]
        if len(cells) == 7:
            rows[cells[0].split(",")[0] + str(len([r for r in rows if r.startswith(cells[0].split(",")[0])]))] = cells
    calls = {name[:-1]: cells[2] for name, cells in rows.items() if name.endswith("0")}
    assert calls["roles.user"] == str(6 * (1 + 3 * 2))  # one opening for all, then two more turns with each of three
    assert calls["models.far.remote"] == "18" and calls["roles.responder"] == "36"
    assert calls["roles.judge"] == str(3 * 18 + 5 * 36)  # ratings, and five replies for everybody of the calibration
    assert not (folder / "out").exists()


def test_what_a_dry_run_counts_is_what_a_run_asks(folder):
    from aloe_jax.benchmark.estimate import estimate
    from aloe_jax.benchmark.settings import EvaluateSettings
    from aloe_jax.benchmark.stages import read_cases
    from aloe_jax.settings import load_settings

    assert run(folder, "judging.pairs=[[generic, informed]]", "judging.votes=2").exit_code == 0
    usage = load_results(folder / "out").usage
    settings = load_settings(EvaluateSettings, folder / "out/config.yaml")
    expected = {}
    for one in estimate(settings, read_cases(settings), None):
        role = {"roles.user": "user", "roles.responder": "responder", "roles.judge": "judge"}.get(
            one.player, "comparer"
        )
        expected[role] = one.calls
    assert {name.split("/")[1]: used.calls for name, used in usage.items()} == expected
