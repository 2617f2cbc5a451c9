"""Which models of a benchmark's config stand for the runs of a sweep, which stay, and which are left out."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from aloe_jax.benchmark.controls import control_of
from aloe_jax.cli.sweep import main
from aloe_jax.errors import AloeError
from aloe_jax.settings import load_settings
from aloe_jax.sweep.checks import check_plan
from aloe_jax.sweep.plan import plan_of
from aloe_jax.sweep.settings import SweepSettings
from tests.sweep.lines import settings

ROOT = Path(__file__).parents[2]
LINE = ("base", "sft", "dpo", "rl")


@pytest.fixture
def configs(workspace):
    """Configs of a line whose outputs differ, and a directory for its files."""
    for name in LINE:
        text = (workspace / ("rl.yaml" if name == "rl" else "sft.yaml")).read_text()
        (workspace / f"{name}.yaml").write_text(json.dumps({**json.loads(text), "output": f"runs/{name}"}))
    return workspace


def evaluation(models, **more):
    given = json.loads(Path("evaluate.yaml").read_text())
    judging = {"pairs": more.pop("pairs", [])}
    Path("evaluate.yaml").write_text(json.dumps(given | {"models": models, "judging": judging} | more))


def plan(*names, **changes):
    train = {name: {"config": f"{name}.yaml"} for name in names}
    return plan_of(settings(**{"train": train} | changes))


def described(found):
    """Every model as what it is of."""
    return {name: (one.path or one.scripted, one.sees) for name, one in found.evaluation.models.items()}


def test_a_control_of_a_training_stands_for_a_control_of_every_run(configs):
    evaluation({"low": {"scripted": "generic"}, "rl": {"path": "runs/rl"},
                "rl-last_message": {"path": "./runs/rl/", "sees": "last_message"}})  # fmt: skip
    found = plan("rl")
    assert described(found) == {
        "low": ("generic", "history"),
        "rl-s0": ("sweep/rl-s0", "history"), "rl-s1": ("sweep/rl-s1", "history"),
        "rl-s0-last_message": ("sweep/rl-s0", "last_message"), "rl-s1-last_message": ("sweep/rl-s1", "last_message"),
    }  # fmt: skip
    assert control_of("rl-s1-last_message", found.evaluation.models) == "rl-s1"
    assert not found.notes
    check_plan(found)  # runs that are not trained yet have no directory, their controls neither


def test_controls_of_all_models_are_of_the_runs(configs):
    """The shorthand is expanded where the config is read, before the runs are known."""
    evaluation({"sft": {"path": "elsewhere"}, "dpo": {"path": "elsewhere"}}, controls=["persona"])
    found = plan("sft", "dpo")
    assert {name: path for name, (path, sees) in described(found).items() if sees == "persona"} == {
        f"{run.name}-persona": f"sweep/{run.name}" for run in found.runs
    }


def test_a_control_by_another_name_is_of_the_same_runs(configs):
    evaluation({"dpo": {"path": "elsewhere"}, "blind": {"path": "elsewhere", "sees": "last_message"}})
    assert list(described(plan("dpo", seeds=[3]))) == ["dpo-s3", "dpo-s3-last_message"]


def test_a_model_with_the_name_of_a_training_sees_what_it_saw(configs):
    evaluation({"sft": {"path": "x", "sees": "last_message"}})
    assert described(plan("sft", seeds=[0])) == {"sft-s0-last_message": ("sweep/sft-s0", "last_message")}


def test_the_output_of_a_trainings_config_is_all_runs_of_it(configs):
    """Whatever the model and the trainings are called."""
    evaluation({"mine": {"path": "runs/dpo"}})
    train = {name: {"config": "dpo.yaml", "set": {"steps": steps}} for name, steps in (("short", 2), ("long", 9))}
    assert list(described(plan(train=train, seeds=[0]))) == ["short-s0", "long-s0"]


def test_the_output_of_a_config_that_is_not_trained_is_left_out_and_it_says_so(configs):
    """Or a run of somebody's earlier training would be compared with those of the sweep as if it were one of them."""
    evaluation(
        {"sft": {"path": "runs/sft"}, "rl": {"path": "runs/rl"},
         "rl-persona": {"path": "runs/rl", "sees": "persona"}, "other": {"path": "tok"}},
        pairs=[["sft", "rl"], ["sft", "other"]],
    )  # fmt: skip
    found = plan("sft", seeds=[0])
    assert list(described(found)) == ["sft-s0", "other"]
    assert found.evaluation.judging.pairs == (("sft-s0", "other"),)
    assert [note.partition(":")[0] for note in found.notes] == ["models.rl", "models.rl-persona", "judging.pairs"]
    assert "runs/rl is the output of rl.yaml, which this sweep does not train: left out" in found.notes[0]
    (configs / "tok/config.json").write_text("{}")
    given = settings(train={"sft": {"config": "sft.yaml"}}, seeds=[0])
    (configs / "sweep.yaml").write_text(json.dumps(given.model_dump(mode="json", exclude_none=True)))
    done = CliRunner().invoke(main, ["--config", "sweep.yaml", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "models.rl: runs/rl is the output of rl.yaml" in done.output and "benchmark of 2 models" in done.output


def test_a_model_and_its_control_are_compared_run_by_run(configs):
    evaluation({"dpo": {"path": "runs/dpo"}}, controls=["persona"], pairs=[["dpo", "dpo-persona"]])
    train = {"dpo": {"config": "dpo.yaml", "vary": {"steps": [2, 3]}}}
    pairs = plan(train=train).evaluation.judging.pairs
    assert len(pairs) == 4 and all(second == f"{first}-persona" for first, second in pairs)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"sft": {"path": "runs/dpo"}}, "models.sft: has the name of training sft and the path of dpo"),
        ({"sft": {"scripted": "generic"}}, "models.sft: has the name of a training, and no path"),
        ({"sft": {"path": "x"}, "mine": {"path": "runs/sft"}}, "models.mine: there is another model sft-s0"),
        ({"mine": {"path": "x"}}, "none has the name of a training of the sweep"),
    ],
)
def test_models_that_could_be_two_things_are_refused(configs, models, message):
    evaluation(models)
    with pytest.raises(AloeError, match=message):
        plan("sft", "dpo")


@pytest.mark.parametrize("trained", [LINE, LINE[:3]], ids=["published", "of the docs"])
def test_the_demos_sweep_has_no_model_of_the_demo(trained, monkeypatch):
    """Its DPO, SFT and base, and with RL its control too; the example in docs/benchmark.md trains no RL."""
    monkeypatch.chdir(ROOT)
    given = load_settings(SweepSettings, "configs/demo/sweep.yaml")
    found = plan_of(given.model_copy(update={"train": {name: given.train[name] for name in trained}}))
    assert {one.path for one in found.evaluation.models.values() if one.path} == {
        run.settings.output for run in found.runs
    }
    controls = [name for name, one in found.evaluation.models.items() if one.path and one.sees == "last_message"]
    assert controls == [f"rl-s{seed}-last_message" for seed in given.seeds if "rl" in trained]
    assert len(found.notes) == (0 if "rl" in trained else 2)
