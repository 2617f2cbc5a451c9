"""What a sweep is made of, and what is wrong with one before it starts."""

import json

import pytest
from click.testing import CliRunner

from aloe_jax.benchmark.controls import control_of
from aloe_jax.cli.sweep import main
from aloe_jax.errors import AloeError
from aloe_jax.settings import dump_settings, load_settings
from aloe_jax.sweep.checks import check_plan, state_of
from aloe_jax.sweep.expected import totals
from aloe_jax.sweep.plan import plan_of
from aloe_jax.training.settings import TrainSettings
from tests.sweep.lines import settings


def test_every_seed_has_a_line_of_its_own(workspace):
    plan = plan_of(settings())
    assert [(run.name, run.seed, run.start) for run in plan.runs] == [
        ("sft-s0", 0, None), ("dpo-s0", 0, "sft-s0"), ("sft-s1", 1, None), ("dpo-s1", 1, "sft-s1"),
    ]  # fmt: skip
    dpo = plan.runs[3].settings
    assert (dpo.output, dpo.seed, dpo.model.path) == ("sweep/dpo-s1", 1, "sweep/sft-s1")
    assert list(plan.evaluation.models) == ["low", "sft-s0", "sft-s1", "dpo-s0", "dpo-s1"]
    assert plan.evaluation.models["dpo-s1"].path == "sweep/dpo-s1"
    assert plan.evaluation.judging.pairs == (("sft-s0", "dpo-s0"), ("sft-s1", "dpo-s1"))
    assert plan.evaluation.output == "sweep/benchmark"


def test_controls_are_those_of_the_runs(workspace):
    """A control of a training's model is evaluated of every run, from the run's own directory; pairs follow."""
    config = json.loads((workspace / "evaluate.yaml").read_text())
    config["models"]["dpo-blind"] = {"path": "y", "sees": "last_message"}
    config["judging"]["pairs"] = [["dpo", "dpo-blind"], ["low", "dpo-blind"]]
    (workspace / "evaluate.yaml").write_text(json.dumps(config))
    found = plan_of(settings()).evaluation
    names = [f"dpo-s{seed}-last_message" for seed in (0, 1)]
    assert [name for name in found.models if name.endswith("last_message")] == names
    check_plan(plan_of(settings()))
    for seed in (0, 1):
        control, model = found.models[names[seed]], found.models[f"dpo-s{seed}"]
        assert (control.path, control.sees) == (f"sweep/dpo-s{seed}", "last_message")
        assert (model.path, model.sees) == (f"sweep/dpo-s{seed}", "history")
        assert control_of(names[seed], found.models) == f"dpo-s{seed}"
    assert found.judging.pairs == (
        ("dpo-s0", names[0]), ("dpo-s1", names[1]), ("low", names[0]), ("low", names[1]),
    )  # fmt: skip


def test_what_is_written_for_a_run_reads_back(workspace):
    run = plan_of(settings()).runs[1]
    (workspace / "again.yaml").write_text(dump_settings(run.settings))
    assert load_settings(TrainSettings, "again.yaml") == run.settings


def test_once_is_trained_with_its_own_seed_for_all(workspace):
    train = {"sft": {"config": "sft.yaml", "once": True}, "dpo": {"config": "dpo.yaml", "start": "sft"}}
    plan = plan_of(settings(train=train))
    assert [(run.name, run.settings.seed, run.start) for run in plan.runs] == [
        ("sft", 7, None), ("dpo-s0", 0, "sft"), ("dpo-s1", 1, "sft"),
    ]  # fmt: skip
    assert list(plan.evaluation.models) == ["low", "sft", "dpo-s0", "dpo-s1"]
    assert plan.evaluation.judging.pairs == (("sft", "dpo-s0"), ("sft", "dpo-s1"))


def test_variants_are_recipes_of_their_own_and_go_on(workspace):
    train = {
        "sft": {"config": "sft.yaml", "set": {"steps": 2}, "vary": {"optimizer.learning_rate": [0.1, 1e-5]}},
        "dpo": {"config": "dpo.yaml", "start": "sft", "vary": {"dpo.loss": ["ipo", "hinge"], "dpo.beta": [0.3]}},
    }
    plan = plan_of(settings(seeds=[5], train=train))
    names = [run.name for run in plan.runs]
    assert names[:2] == ["sft-learning_rate_0.1-s5", "sft-learning_rate_1e-05-s5"]
    assert names[2:4] == [f"dpo-learning_rate_0.1-loss_{loss}-beta_0.3-s5" for loss in ("ipo", "hinge")]
    assert len(names) == 6 and plan.runs[4].start == "sft-learning_rate_1e-05-s5"
    assert (plan.runs[5].settings.dpo.loss, plan.runs[5].settings.dpo.beta) == ("hinge", 0.3)
    assert {run.settings.steps for run in plan.runs[:2]} == {2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [1, 1]}, "names one twice"),
        ({"train": {"benchmark": {"config": "sft.yaml"}}}, "is the name of directories"),
        ({"train": {"dpo": {"config": "dpo.yaml", "start": "sft"}}}, "sft is no training before dpo; there are: none"),
        ({"train": {"a": {"config": "c"}, "b": {"config": "c", "start": "a", "once": True}}}, "a run for every seed"),
        ({"train": {"a": {"config": "c", "set": {"seed": 3}}}}, "what the sweep gives to every run"),
        ({"train": {"a": {"config": "c", "vary": {"steps": []}}}}, "give several different values"),
        ({"train": {"a": {"config": "c", "vary": {"steps": [1, 2]}, "set": {"steps": 3}}}}, "in one of them"),
    ],
)
def test_settings_that_contradict_themselves(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "gs://b/x"}, "is in a bucket"),
        ({"train": {"sft": {"config": "sft.yaml", "set": {"stepz": 3}}}}, "unknown key stepz; did you mean steps?"),
        ({"train": {"other": {"config": "sft.yaml"}}}, "none has the name of a training of the sweep"),
        (
            {"train": {"sft": {"config": "sft.yaml", "vary": {"wandb": ["a b", "a:b"]}}}},
            "would be called sft-wandb_a_b",
        ),
        ({"train": {"sft": {"config": "nothing.yaml"}}}, "nothing.yaml: cannot read the config"),
    ],
)
def test_configs_that_do_not_fit(workspace, changes, message):
    with pytest.raises(AloeError, match=message):
        plan_of(settings(**changes))


def test_paths_are_looked_for_at_the_door(workspace):
    """The last run's data are missing: nothing starts, not even the first run."""
    check_plan(plan_of(settings()))
    broken = settings(train={
        "sft": {"config": "sft.yaml"},
        "dpo": {"config": "dpo.yaml", "start": "sft", "set": {"data.path": "gone"}},
    })  # fmt: skip
    with pytest.raises(AloeError, match=r"dpo.yaml \(run dpo-s0\): data.path: gone does not exist"):
        check_plan(plan_of(broken))
    with pytest.raises(AloeError, match=r"run dpo-s0.*model.path: nowhere does not exist"):
        check_plan(plan_of(settings(train={"dpo": {"config": "dpo.yaml"}})))
    with pytest.raises(AloeError, match="has 4 benchmark personas, cases asks for 5"):
        check_plan(plan_of(settings(evaluate={"config": "evaluate.yaml", "set": {"cases": 5}})))
    with pytest.raises(AloeError, match=r"roles.judge.model: provider openai needs a model"):
        change = {"roles.judge": {"provider": "openai"}}
        check_plan(plan_of(settings(evaluate={"config": "evaluate.yaml", "set": change})))


def test_personas_of_a_held_out_profile_do_not_count(workspace):
    """Six personas are enough for two a step and two held out, but four of them share the held-out profile."""
    profiles = ["Has goats.", "Has a boat.", "Has goats.", "Has goats.", "Has goats.", "Has goats."]
    people = [{"id": f"p{i}", "profile": text, "personality": f"Calm {i}."} for i, text in enumerate(profiles)]
    (workspace / "people.jsonl").write_text("\n".join(map(json.dumps, people)))

    def sweep(**changes):
        return plan_of(settings(train={"rl": {"config": "rl.yaml", "set": changes}}, evaluate=None))

    message = r"has 6 personas.* 2 \(rl.conversations\), and 2 are .* with 3 more of the same profiles"
    for count in (check_plan, totals):
        with pytest.raises(AloeError, match=message):
            count(sweep())
    check_plan(sweep(**{"data.validation_by": "conversation"}))
    check_plan(sweep(**{"rl.conversations": 1}))


def test_epochs_of_rl_are_counted_in_steps(workspace):
    """Two of four personas are held out and two talk in a step: three epochs are three steps."""
    asked = []
    for length in ({"steps": 3}, {"steps": None, "epochs": 3}):
        plan = plan_of(settings(train={"rl": {"config": "rl.yaml", "set": length}}, evaluate=None))
        asked.append(totals(plan)[0])
    assert asked[0] == asked[1] and " 0 calls" not in asked[0]


def test_a_run_of_other_settings_is_refused_at_the_door(workspace):
    run = plan_of(settings()).runs[3]
    directory = workspace / "sweep/dpo-s1"
    (directory / "checkpoints/2/params").mkdir(parents=True)
    before = run.settings.model_copy(update={"steps": 9})
    (directory / "config.yaml").write_text(dump_settings(before))
    with pytest.raises(AloeError, match=r"run dpo-s1.*this run has steps: 9, now it would be 4"):
        check_plan(plan_of(settings()))
    (directory / "config.yaml").write_text(dump_settings(run.settings))
    check_plan(plan_of(settings()))
    assert state_of(run) == "goes on after step 2"
    (directory / "finished.json").write_text("{}")
    assert state_of(run) == "done"


def test_a_dry_run_shows_runs_calls_and_dollars_and_starts_nothing(workspace):
    (workspace / "sweep.yaml").write_text(json.dumps(settings().model_dump(mode="json", exclude_none=True)))
    before = sorted(workspace.rglob("*"))
    done = CliRunner().invoke(main, ["--config", "sweep.yaml", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "4 trainings into sweep; nothing was started" in done.output
    for name in ("sft-s0", "dpo-s1", "to do", "trainings: 0 calls, $0.00"):
        assert name in done.output
    assert sorted(workspace.rglob("*")) == before


def test_calls_of_trainings_are_counted(workspace):
    """Two runs by RL ask twice what one asks; users and judges that have no price have no sum of dollars."""
    priced = {"provider": "openai", "model": "m", "price": {"input": 1.0, "output": 1.0}}
    asked = []
    for seeds in ([0], [0, 1]):
        plan = plan_of(settings(seeds=seeds, train={"rl": {"config": "rl.yaml"}}, evaluate=None))
        asked.append(int(totals(plan)[0].split()[1].replace(",", "")))
    assert asked[0] > 0 and asked[1] == 2 * asked[0]
    paid = plan_of(settings(train={"rl": {"config": "rl.yaml", "set": {"roles": priced}}}, evaluate=None))
    free = plan_of(
        settings(train={"rl": {"config": "rl.yaml", "set": {"roles": priced | {"price": None}}}}, evaluate=None)
    )
    assert "$0.00" not in totals(paid)[-2] and "no price" in totals(free)[-2]
    check_plan(paid)
