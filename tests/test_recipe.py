"""Which runs are of one recipe: those that differ by seeds, and by what changes nothing that is learned."""

import json
import shutil
from contextlib import nullcontext

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.publishing.recipe import recipe_of
from aloe_jax.settings import dump_settings, load_settings
from aloe_jax.training.base import check_base
from aloe_jax.training.claim import check_settings
from aloe_jax.training.settings import TrainSettings

SFT = {
    "stage": "sft",
    "model": {"tokenizer": "tok"},
    "data": {"path": "trees"},
    "steps": 4,
    "optimizer": {"learning_rate": 0.1},
}
DPO = {"stage": "dpo", "data": {"path": "trees"}, "steps": 4, "dpo": {"beta": 0.3}}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Writes what a finished run leaves: settings, spec, a checkpoint whose weights are the directory's name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok/tokenizer_config.json").write_text("{}")

    def write(name, values, *, step=4, **more):
        directory = tmp_path / name
        settings = TrainSettings.model_validate({**values, "output": name} | more)
        directory.mkdir()
        (directory / "config.yaml").write_text(dump_settings(settings))
        (directory / "spec.json").write_text("{}")
        check_base(settings, directory)
        (directory / f"checkpoints/{step}/params").mkdir(parents=True)
        (directory / f"checkpoints/{step}/params/weights").write_text(name)
        return directory

    return write


def test_seeds_and_directories_are_not_part_of_a_recipe(run):
    one = recipe_of(run("one", SFT, seed=0))
    other = recipe_of(run("other", SFT, seed=1, log_every=3, mesh={"fsdp": 1}, wandb="x", checkpoints={"every": 2}))
    assert one.digest == other.digest and len(one.digest) == 16
    assert (one.stages, one.seeds, other.seeds) == (("sft",), (0,), (1,))


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 5},
        {"optimizer": {"learning_rate": 0.2}},
        {"data": {"path": "others"}},
        {"sft": {"normalise": "sequence"}},
    ],
)
def test_everything_else_is(run, change):
    assert recipe_of(run("one", SFT)).digest != recipe_of(run("other", SFT | change)).digest


RL = {"stage": "rl", "model": {"path": "sft"}, "steps": 4, "rl": {"personas": "p", "conversations": 2}}


@pytest.mark.parametrize(
    ("change", "free"),
    [
        ({"log_every": 3}, True),
        ({"rl": {"max_calls": 99}}, True),
        ({"rl": {"watch": {"every": 7, "personas": 4, "roles": {"judge": {"model": "m"}}}, "heldout": 4}}, True),
        ({"rl": {"draw": {"rows": 8}}}, True),
        ({"rl": {"draw": {"temperature": 0.5}}}, False),
        ({"rl": {"turns": 3}}, False),
    ],
)
def test_what_a_resumed_run_may_change_is_not_part_of_a_recipe(run, change, free):
    """One function says so for both."""
    run("sft", SFT)
    begun = RL | {"rl": {**RL["rl"], "heldout": 4}}
    values = {name: begun.get(name, {}) | part if isinstance(part, dict) else part for name, part in change.items()}
    one, other = run("one", begun), run("other", {**begun, **values})
    assert (recipe_of(one).digest == recipe_of(other).digest) == free
    resumed = TrainSettings.model_validate({**begun, **values, "output": "one"})
    with nullcontext() if free else pytest.raises(AloeError, match="restore the setting to resume"):
        check_settings(resumed)


def test_how_far_a_run_came_is(run):
    assert recipe_of(run("one", SFT)).digest != recipe_of(run("other", SFT, step=2)).digest


def test_runs_from_runs_of_one_recipe_are_of_one_recipe(run):
    for seed in (0, 1):
        run(f"sft{seed}", SFT, seed=seed)
        run(f"dpo{seed}", DPO, seed=seed, model={"path": f"sft{seed}"})
    run("unlike", SFT | {"steps": 9}, step=9)
    run("dpo2", DPO, model={"path": "unlike"})
    first, second, third = (recipe_of(f"dpo{number}") for number in range(3))
    assert first.digest == second.digest != third.digest
    assert (second.stages, second.seeds) == (("sft", "dpo"), (1, 1))


def test_a_model_is_found_from_where_it_was_trained(run, tmp_path, monkeypatch):
    for seed in (0, 1):
        run(f"sft{seed}", SFT, seed=seed)
        run(f"dpo{seed}", DPO, seed=seed, model={"path": f"sft{seed}"})
    monkeypatch.chdir("/")
    found = [recipe_of(tmp_path / f"dpo{seed}") for seed in (0, 1)]
    assert found[0].digest == found[1].digest and found[1].seeds == (1, 1)


def test_what_a_run_began_with_is_not_what_stands_there_now(run, tmp_path):
    """A model that was trained anew since, or is gone: the run is known by the weights that it recorded."""
    for seed in (0, 1):
        run(f"sft{seed}", SFT, seed=seed)
        run(f"dpo{seed}", DPO, seed=seed, model={"path": f"sft{seed}"})
    whole = recipe_of("dpo0")
    (tmp_path / "sft0/checkpoints/4/params/weights").write_text("trained anew")
    changed = recipe_of("dpo0")
    shutil.rmtree(tmp_path / "sft0")
    assert changed == recipe_of("dpo0") and changed.digest != whole.digest and changed.stages == ("dpo",)


def test_a_tokenizer_is_known_by_its_content(run, tmp_path):
    one = recipe_of(run("one", SFT))
    (tmp_path / "tok/tokenizer_config.json").write_text('{"other": 1}')
    assert one.digest != recipe_of(run("other", SFT)).digest


def test_what_is_no_run_of_ours_has_none(run, tmp_path):
    directory = run("one", SFT)
    assert recipe_of(tmp_path / "nowhere") is None and recipe_of(tmp_path / "tok") is None
    (directory / "config.yaml").write_text("stage: dance\n")
    assert recipe_of(directory) is None


def test_settings_that_later_versions_add_do_not_change_it(run):
    """Only what differs from the defaults goes in. (Where one setting is missing, see below.)"""
    directory = run("one", SFT)
    before = recipe_of(directory)
    settings = load_settings(TrainSettings, directory / "config.yaml")
    values = settings.model_dump(mode="json", exclude_defaults=True)
    values["data"]["validation_by"] = "profile"
    (directory / "config.yaml").write_text(json.dumps(values))
    assert recipe_of(directory) == before


def test_a_run_from_before_held_out_conversations(run):
    """Its config lacks the setting; read with the default of today it would be a run on other rows."""
    new = recipe_of(run("new", SFT))
    config = run("old", SFT) / "config.yaml"
    lines = [line for line in config.read_text().splitlines() if "validation_by" not in line]
    config.write_text("\n".join(lines) + "\n")
    gone_on_with = recipe_of(run("again", SFT | {"data": {"path": "trees", "validation_by": "conversation"}}))
    assert recipe_of("old").digest == gone_on_with.digest != new.digest


def test_the_version_of_the_simulated_world_is(run, monkeypatch):
    values = {
        "stage": "rl", "model": {"path": "tok"}, "data": {"row_length": 4096, "rows": 16}, "steps": 4,
        "rl": {"personas": "p"}, "roles": {"provider": "scripted"},
    }  # fmt: skip
    one = run("one", values)
    monkeypatch.setattr("aloe_jax.training.base.WORLD_VERSION", 99)
    other, alike = run("other", values), run("alike", values, seed=1)
    assert recipe_of(one).digest != recipe_of(other).digest == recipe_of(alike).digest
    before = recipe_of(one)
    check_base(TrainSettings.model_validate({**values, "output": "one"}), one)  # gone on with: as it began
    assert recipe_of(one) == before
    record = json.loads((one / "base.json").read_text())
    (one / "base.json").write_text(json.dumps({key: value for key, value in record.items() if key != "world"}))
    check_base(TrainSettings.model_validate({**values, "output": "one"}), one)
    assert "world" not in json.loads((one / "base.json").read_text())  # an earlier version began it
